#!/bin/sh
# Sets up .venv for one of: chat, bench, dev; or .venv-torch, which sees .venv and adds torch.
# Called by make before every target; does nothing unless pyproject.toml, constraints.txt or the
# backend changed since. POSIX sh and BSD tools only: this runs on a bare Mac too.
#
# K2MLX_BACKEND=cpu or cuda overrides the choice on Linux; PYTHON names the interpreter to use.
set -eu

fail() {
    echo "k2mlx: $1" >&2
    exit 2
}

check_machine() {
    case "$(uname -s)" in
    Linux) ;;
    Darwin)
        if [ "$(uname -m)" != arm64 ]; then
            if [ "$(sysctl -n sysctl.proc_translated 2>/dev/null || echo 0)" = 1 ]; then
                fail "this terminal runs under Rosetta; open one that does not and run make again"
            fi
            fail "MLX needs Apple silicon and this is an Intel Mac; use a newer Mac, or Linux"
        fi
        macos=$(sw_vers -productVersion)
        [ "${macos%%.*}" -ge 14 ] || fail "MLX needs macOS 14 and this is $macos; update macOS"
        ;;
    *) fail "k2mlx runs on macOS and Linux, not on $(uname -s); on Windows use WSL" ;;
    esac
}

# Prints the extra that brings MLX's backend; on macOS it is part of mlx.
backend() {
    if [ "$(uname -s)" = Darwin ]; then
        echo metal
    elif [ -n "${K2MLX_BACKEND:-}" ]; then
        echo "$K2MLX_BACKEND"
    elif nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
        echo cuda
    else
        echo cpu
    fi
}

fits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

# Prints a Python that k2mlx supports, or stops with the remedy.
find_python() {
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$python" >/dev/null 2>&1 && fits "$python"; then
            "$python" -c 'import ensurepip, venv' 2>/dev/null || fail \
                "$python has no venv; on Debian or Ubuntu: sudo apt-get install python3-venv"
            echo "$python"
            return
        fi
    done
    found=$("${PYTHON:-python3}" -c 'import sys; print("%d.%d" % sys.version_info[:2])' \
        2>/dev/null) || fail "no python3; install Python 3.11 to 3.14, or uv"
    fail "k2mlx needs Python 3.11 to 3.14 and python3 is $found; install one, or set PYTHON=PATH"
}

make_venv() {
    if [ -e .venv ]; then
        fits .venv/bin/python && return
        rm -rf .venv # its Python is gone or not one of ours
    fi
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --python "${PYTHON:->=3.11,<3.15}" .venv
    else
        python=$(find_python)
        "$python" -m venv .venv
    fi
}

install() {
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python .venv/bin/python -c constraints.txt "$@"
    else
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$@"
    fi
}

uninstall() {
    if command -v uv >/dev/null 2>&1; then
        uv pip uninstall --quiet --python .venv/bin/python "$@"
    else
        .venv/bin/python -m pip uninstall --quiet --yes "$@"
    fi
}

setup_venv() { # name, extras, backend
    stamp=.venv/k2mlx-$1
    want="$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum) $3"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && fits .venv/bin/python; then
        return
    fi
    make_venv
    echo "k2mlx: setting up .venv for '$1' with MLX on $3 (once; takes a few minutes)" >&2
    # The backends overwrite each other's files: one at a time, and from scratch on a change.
    if [ -f .venv/k2mlx-backend ] && [ "$(cat .venv/k2mlx-backend)" != "$3" ]; then
        uninstall mlx mlx-cpu mlx-cuda-13
        rm -f .venv/k2mlx-*
    fi
    extras=$2
    [ "$3" = metal ] || extras=$2,$3
    install -e ".[$extras]"
    echo "$3" >.venv/k2mlx-backend
    echo "$want" >"$stamp"
}

# torch stays out of .venv, where it would slow every import of mlx-lm and change what is tested.
setup_torch() {
    setup_venv dev dev "$cpu"
    stamp=.venv-torch/k2mlx-torch
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(cat .venv/k2mlx-dev)" ] && return
    rm -rf .venv-torch
    .venv/bin/python -m venv .venv-torch
    site='import sysconfig; print(sysconfig.get_path("purelib"))'
    .venv/bin/python -c "$site" >"$(.venv-torch/bin/python -c "$site")/venv.pth"
    .venv-torch/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
    cp .venv/k2mlx-dev "$stamp"
}

cd "$(dirname "$0")/.."
check_machine
chosen=$(backend)
# Tests compare with float32 references on the CPU, also where there is an NVIDIA GPU.
cpu=$chosen
[ "$chosen" = metal ] || cpu=cpu
case "${1:-}" in
chat) setup_venv chat app "$chosen" ;;
bench) setup_venv bench bench "$chosen" ;;
dev) setup_venv dev dev "$cpu" ;;
torch) setup_torch ;;
*) fail "usage: setup.sh chat|bench|dev|torch" ;;
esac
