#!/bin/bash
# Builds both images with buildah, without a daemon, and runs their commands. Where registries cannot be reached, on
# stand-ins of their bases: Debian by debootstrap with interpreters of pyenv. That proves every step of the Dockerfiles
# on the pins; not what the real bases hold. Needs root: apt-get install buildah debootstrap. Takes 15 minutes and 20 GB.
#   benchmarks/images.sh [EXTRA of the trainer, by default train]
set -euo pipefail
cd "$(dirname "$0")/.."
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
extra=${1:-train}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Commits a stand-in with an interpreter. NAME VERSION
stand_in() {
    local interpreter container root
    interpreter=$(echo "${PYENV_ROOT:-$HOME/.pyenv}/versions/$2".*)
    container=$(buildah from scratch)
    root=$(buildah mount "$container")
    cp -a "$work/debian/." "$root/"
    mkdir -p "$root$(dirname "$interpreter")" "$root/opt/apache/beam"
    cp -a "$interpreter" "$root$(dirname "$interpreter")"
    # As a base has it: what else was installed there is of this machine.
    find "$root$interpreter"/lib/python*/site-packages -mindepth 1 -maxdepth 1 ! -name 'pip*' -exec rm -rf {} +
    chmod -R a+rX "$root$HOME"
    printf '#!/bin/sh\nexit 0\n' >"$root/opt/apache/beam/boot"
    chmod +x "$root/opt/apache/beam/boot"
    # Indexes may be behind a proxy with a certificate of its own.
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    buildah umount "$container" >/dev/null
    buildah config --env "PATH=$interpreter/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" \
        --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$container"
    buildah commit --quiet --rm "$container" "$1"
}

base=docker.io/library/python:3.12-slim
if ! buildah pull --quiet "$base"; then
    echo "registries cannot be reached: stand-ins take the place of the bases" >&2
    debootstrap --variant=minbase --include=ca-certificates,libssl3,libffi8,zlib1g,libsqlite3-0,libbz2-1.0,liblzma5 \
        bookworm "$work/debian" >/dev/null
    stand_in "$base" 3.12
    stand_in docker.io/apache/beam_python3.11_sdk:2.77.0 3.11
    launcher=$(buildah from scratch)
    mkdir -p "$(buildah mount "$launcher")/opt/google/dataflow"
    touch "$(buildah mount "$launcher")/opt/google/dataflow/python_template_launcher"
    buildah umount "$launcher" >/dev/null
    buildah commit --quiet --rm "$launcher" gcr.io/dataflow-templates-base/python311-template-launcher-base:latest
fi

git archive --prefix=context/ HEAD | tar x -C "$work"
build() { buildah bud --pull-never -f "$1" -t "$2" "${@:3}" "$work/context"; }
run() { # IMAGE COMMAND...
    local container
    container=$(buildah from --pull-never "$1")
    buildah run "$container" -- "${@:2}"
    buildah rm "$container" >/dev/null
}
build deploy/trainer.Dockerfile embodimix-train:0.1.0 --build-arg "EXTRA=$extra"
run embodimix-train:0.1.0 embodimix --version
run embodimix-train:0.1.0 embodimix train pretrain --help >/dev/null
build pipelines/dataflow/Dockerfile embodimix:0.1.0
run embodimix:0.1.0 embodimix --version
# shellcheck disable=SC2016  # the image's own variable
run embodimix:0.1.0 sh -c 'test -x /opt/apache/beam/boot && test -f "$FLEX_TEMPLATE_PYTHON_PY_FILE" && python -c "import boto3, rosbags, apache_beam"'
echo "both images were built, and run"
