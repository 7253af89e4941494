# pgmt_library(<name> SOURCES ... LINK ...): a static library of userspace/ with our
# include path, warnings and sanitizers.
# pgmt_flags(<target>): the same for any target of ours.

find_program(PGMT_CCACHE ccache)
if(PGMT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${PGMT_CCACHE})
endif()

function(pgmt_flags target)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/userspace
                                               ${PROJECT_SOURCE_DIR}/include)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-missing-field-initializers
    $<$<BOOL:${PGMT_WERROR}>:-Werror>)
  if(PGMT_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${PGMT_SANITIZE} -fno-omit-frame-pointer
                                             -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=${PGMT_SANITIZE})
  endif()
  if(PGMT_FUZZ) # what the fuzzer sees of a run: the branches taken, the values compared
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()

function(pgmt_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  pgmt_flags(${name})
  target_link_libraries(${name} PUBLIC ${arg_LINK})
endfunction()
