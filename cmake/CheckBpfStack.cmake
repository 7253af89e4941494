# cmake -DOBJDUMP=... -DOBJECT=foo.bpf.o -P CheckBpfStack.cmake: fails if a function's stack frame
# has 64 bytes or more.  From 6.13 on the kernel gives such a frame a stack per CPU, which uprobe
# programs must not use: they can be preempted by another one there (facts/ebpf_lessons.md).

execute_process(COMMAND ${OBJDUMP} -d ${OBJECT} OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
# r10 is the frame pointer: what is stored at it directly, and addresses made from copies of it.
string(REGEX MATCHALL "(r10 - |r[0-9] \\+= -)[0-9a-fx]+" uses "${text}")
set(largest 0)
foreach(use IN LISTS uses)
  string(REGEX REPLACE ".*- ?" "" bytes "${use}")
  math(EXPR bytes "${bytes}")
  if(bytes GREATER largest AND bytes LESS 512) # the verifier refuses more; others are no frames
    set(largest ${bytes})
  endif()
endforeach()
if(NOT text MATCHES "exit")
  message(FATAL_ERROR "${OBJECT}: the disassembly was not understood")
endif()
if(largest GREATER_EQUAL 64)
  message(FATAL_ERROR "${OBJECT}: a stack frame of ${largest} bytes; 56 are allowed (cmake/CheckBpfStack.cmake)")
endif()
