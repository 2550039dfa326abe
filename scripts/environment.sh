# Makes the virtual environment .venv, or uses the one that is there. Other scripts read this file in the project's
# folder:
#     . scripts/environment.sh requirements.txt
# A .venv that is complete for the same requirements is used as it is; an interrupted installation is continued. Nothing
# is deleted but what this file has begun: .venv/.unfinished marks it until it has pip.

requirements=$1
python=
for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or newer is needed; python3 is $(python3 -V 2>/dev/null || echo missing)" >&2
    exit 1
fi
wanted=$(cat pyproject.toml requirements.txt "$requirements" | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
if [ "$(cat ".venv/$requirements.done" 2>/dev/null || true)" != "$wanted" ]; then
    echo "installing $requirements into .venv (once)" >&2
    if [ -e .venv/.unfinished ] || [ -z "$(ls -A .venv 2>/dev/null)" ]; then
        mkdir -p .venv
        touch .venv/.unfinished
        rm -rf .venv/*
        if ! "$python" -m venv .venv; then
            echo "$python cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)" >&2
            exit 1
        fi
        rm .venv/.unfinished
    elif ! .venv/bin/python -m pip --version >/dev/null 2>&1 &&
        ! .venv/bin/python -m ensurepip --default-pip >/dev/null 2>&1; then
        echo "the Python of .venv has no pip and cannot get it, so nothing is installed there; move .venv away" >&2
        exit 1
    fi
    if ! .venv/bin/python -m pip install -q --disable-pip-version-check -r "$requirements" ||
        ! .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .; then
        echo "the installation of $requirements failed; the same command tries again" >&2
        exit 1
    fi
    echo "$wanted" > ".venv/$requirements.done"
fi
