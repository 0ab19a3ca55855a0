#!/bin/sh
# Create a virtual environment with a suitable Python and install this package into it.
#
#   tools/python-env.sh FOLDER EXTRAS      EXTRAS: for example "test,interop", or "" for the package alone
#
# PYTHON in the environment names the interpreter to try first. The last thing done is to touch
# FOLDER/.installed-EXTRAS, so an interrupted installation is taken up again.
set -eu

folder=$1
extras=$2
needed="Python 3.10, 3.11 or 3.12 with the venv module"
range_check='import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'
log="$folder/install.log"

create_environment() {
    for candidate in ${PYTHON:-} python3.12 python3.11 python3.10 python3 python; do
        # A name on PATH may be a stub that refuses to run (pyenv): only running it tells.
        "$candidate" -c "$range_check" >/dev/null 2>&1 || continue
        rm -rf "$folder"
        if "$candidate" -m venv "$folder" >/dev/null 2>&1; then
            echo "virtual environment: $folder ($("$folder/bin/python" --version), from $candidate)"
            return 0
        fi
        rm -rf "$folder"
        broken="${broken:-} $candidate"
    done
    echo "error: $needed is needed; none was found on PATH (tried python3.12, python3.11, python3.10, python3)." >&2
    [ -z "${broken:-}" ] || echo "error: these cannot create a virtual environment:$broken (on Debian: apt install python3-venv)" >&2
    echo "error: name one yourself: make PYTHON=/path/to/python3.11 ..." >&2
    return 1
}

install() {
    "$folder/bin/python" -m pip install --disable-pip-version-check "$@" >>"$log" 2>&1 && return 0
    echo "error: pip install $* failed; the end of $log:" >&2
    tail -n 15 "$log" >&2
    return 1
}

start=$(date +%s)
# An environment whose creation was interrupted has a Python but no pip.
{ "$folder/bin/python" -c "$range_check" && "$folder/bin/python" -m pip --version; } >/dev/null 2>&1 || create_environment
echo "installing alignment${extras:+ with $extras} (log: $log; minutes on a slow line)"
case ",$extras," in
*,interop,*)
    # First and alone: with the exact version present nothing else can pull another build of it.
    install "$(sed -n 's/.*"\(torch==[0-9.]*\)".*/\1/p' setup.py)"
    ;;
esac
install --editable ".${extras:+[$extras]}"
# Once for all: where the environment forbids writing bytecode, every start would compile 400 modules anew (a second).
"$folder/bin/python" -m compileall -q alignment || echo "alignment was not compiled to bytecode: starts take longer"
touch "$folder/.installed-$extras"
echo "installed in $(($(date +%s) - start)) s"
