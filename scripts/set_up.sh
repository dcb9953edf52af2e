# Sourced by sd-scratch and test, once they have set $root to the checkout.
#
# `set_up LEVEL` sees to it that $root/.venv holds what LEVEL (program or tests) needs. Where it does
# already, that costs two small processes and no start of Python.

venv=$root/.venv

# All that the contents of .venv follow from. set_up.py stores this text in .venv as its last act; a
# .venv that holds another text, or none, is stale. The place counts because .venv points back to it.
stamp() {
    echo "$root"
    cat "$root/pyproject.toml" "$root/scripts/constraints.txt" "$root/scripts/set_up.py"
}

set_up() {
    if [ -x "$venv/bin/python" ] && stamp | cmp -s - "$venv/$1.stamp"; then
        return
    fi
    find_python
    stamp | "$python" -I "$root/scripts/set_up.py" "$1"
}

# Sets $python to the first Python on the path that is new enough and can make environments.
find_python() {
    without_venv=
    for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue
        "$python" -c 'import ensurepip, venv' 2>/dev/null && return
        without_venv=$python
    done
    if [ -n "$without_venv" ]; then
        echo "error: $without_venv cannot make a virtual environment - its venv or ensurepip module" \
            "is missing - install it (Debian and Ubuntu: the package python3-venv)" >&2
    else
        echo "error: no Python >= 3.10 on the path - python3 is" \
            "$(python3 --version 2>/dev/null || echo missing) - install a newer Python and try again" >&2
    fi
    exit 1
}
