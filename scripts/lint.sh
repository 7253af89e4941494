#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# lint.sh - format and static checks: clang-format, clang-tidy, shellcheck.
#
# clang-tidy reads minutes of C++, so a file that passed is not read again until it, a header of
# ours that it includes, its flags or the checks change (build/lint/ remembers).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: scripts/lint.sh [--built] [format|tidy|shell|--fix]...

Without an argument: format, tidy and shell.  tidy builds first, for the compile database; it reads
userspace/ and tests/ (sql/ is PostgreSQL's C: scripts/regress.sh compiles it with -Wextra -Werror).
--built: without building first, for a tree that something else has just built.
--fix brings all files into the project's format and checks nothing.
END
}

parts=()
built=
for argument in "$@"; do
  case $argument in
  format | tidy | shell) parts+=("$argument") ;;
  --fix) parts+=(fix) ;;
  --built) built=1 ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
  esac
done
if [[ ${#parts[@]} -eq 0 ]]; then parts=(format tidy shell); fi

cd "$root"
# Under sudo, git refuses a checkout that belongs to somebody else.
tracked() { git -c safe.directory="$root" ls-files -- "$@"; }

check_fix() {
  tracked '*.c' '*.h' '*.cpp' | as_owner xargs clang-format -i
}

check_format() {
  local files
  mapfile -t files < <(tracked '*.c' '*.h' '*.cpp')
  clang-format --dry-run -Werror "${files[@]}" || return 1
  echo "clang-format: ${#files[@]} files well formed"
}

check_shell() {
  local files
  mapfile -t files < <(tracked | while read -r file; do
    if [[ -f $file && $(head -c 64 -- "$file" | head -n 1 | tr -d "\0") =~ ^#!.*[/\ ](ba)?sh ]]; then echo "$file"; fi
  done)
  files+=(scripts/common.sh scripts/private_server.sh)
  shellcheck --external-sources --source-path=SCRIPTDIR "${files[@]}" || return 1
  echo "shellcheck: ${#files[@]} scripts clean"
}

readonly database=build/release
readonly remembered=build/lint

# "SOURCE HASH" for each source of ours, over all that decides clang-tidy's answer.
fingerprints() {
  local common
  common=$({ clang-tidy --version && cat .clang-tidy tests/.clang-tidy && cat scripts/lint.sh; } | sha256sum)
  jq -r --arg root "$root/" '.[] | select(.file | startswith($root)) | .file | ltrimstr($root)' \
    $database/compile_commands.json | grep -E '^(userspace|tests)/' | sort -u |
    while read -r source; do
      printf '%s %s\n' "$source" "$({
        echo "$common"
        jq -r --arg file "$root/$source" '.[] | select(.file == $file) | .command' $database/compile_commands.json
        our_files "$source" | xargs -r sha256sum
      } | sha256sum | cut -d' ' -f1)"
    done
}

# A source, and the headers of ours that it was built from, as ninja noted them.
our_files() {
  awk -v source="$root/$1" -v root="$root/" '
    /^[^ ]/ { n = 0; ours = 0; next }
    /^ / {
      path = $1
      if (path !~ /^\//) path = root "build/release/" path
      if (n++ == 0) ours = path == source
      if (ours && index(path, root) == 1 && path !~ /\/build\//) print path
    }
    END { print source }' $remembered/deps | sort -u
}

# tidy_one SOURCE HASH: silent and remembered if clean.
tidy_one() {
  local output
  if output=$(clang-tidy --quiet -p $database "$1" 2>&1); then
    touch "$remembered/$2"
  else
    printf '%s\n%s\n' "--- $1" "$output"
    return 1
  fi
}

check_tidy() {
  local all todo status=0
  if [[ ! $built ]]; then build release || return 1; fi
  mkdir -p $remembered
  ninja -C $database -t deps >$remembered/deps
  fingerprints >$remembered/all
  all=$(wc -l <$remembered/all)
  if [[ $all -eq 0 ]]; then
    echo "clang-tidy: found no source of ours in $database/compile_commands.json"
    return 1
  fi
  while read -r source hash; do
    if [[ ! -e $remembered/$hash ]]; then echo "$source $hash"; fi
  done <$remembered/all >$remembered/todo
  todo=$(wc -l <$remembered/todo)
  echo "clang-tidy: reading $todo of $all files"
  export -f tidy_one
  export database remembered
  # shellcheck disable=SC2016
  xargs -r -P "$(nproc)" -L 1 bash -c 'tidy_one "$1" "$2"' tidy_one <$remembered/todo || status=1
  # What no file has any more.
  find $remembered -maxdepth 1 -type f -name '????????????????????????????????????????????????????????????????' |
    grep -vFf <(cut -d' ' -f2 $remembered/all) | xargs -r rm -f
  if [[ $status -eq 0 ]]; then echo "clang-tidy: $all files clean"; fi
  return $status
}

failed=()
for part in "${parts[@]}"; do
  say "lint: $part"
  "check_$part" || failed+=("$part")
done
if [[ ${#failed[@]} -gt 0 ]]; then
  printf '\nlint FAILED: %s\n' "${failed[*]}"
  exit 1
fi
printf '\nlint: clean\n'
