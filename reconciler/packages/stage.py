"""The standard builder of recipes: one shell script, the same store path for every package.

It unpacks the sources, goes into the first, and runs the recipe's script, or `./configure`, `make`, `make install`.
What a script finds: $out; $src and $srcs; $name, $pname, $version; each input under its own name; bin of every input
before the host's programs on PATH; CPPFLAGS, LDFLAGS (with a run path), PKG_CONFIG_PATH and CMAKE_PREFIX_PATH for
inputs that have such directories; SOURCE_DATE_EPOCH and a gzip that writes no time, so that a build can be repeated.

A change of this text changes the store path of everything that recipes make.
"""

from __future__ import annotations

NAME = "recipe-build.sh"

SCRIPT = r"""# The standard builder of reconciler's recipes; run as: /bin/sh -e THIS
umask 022
cd "$NIX_BUILD_TOP"
export LC_ALL=C TZ=UTC0 SHELL=/bin/sh CONFIG_SHELL=/bin/sh SOURCE_DATE_EPOCH=1
PATH=/usr/bin:/bin:/usr/sbin:/sbin
export PATH

prepend() { # VARIABLE VALUE SEPARATOR
    eval "$1=\"\$2\${$1:+\$3\$$1}\""
    export "$1"
}

mkdir .tools
printf '#!/bin/sh\nPATH=%s exec gzip -n "$@"\n' "$PATH" > .tools/gzip
chmod 755 .tools/gzip

reversed=
for one in ${inputs-}; do
    reversed="$one $reversed"
done
for one in $reversed; do
    prepend CMAKE_PREFIX_PATH "$one" :
    if [ -d "$one/bin" ]; then prepend PATH "$one/bin" :; fi
    if [ -d "$one/include" ]; then prepend CPPFLAGS "-I$one/include" ' '; fi
    if [ -d "$one/lib" ]; then prepend LDFLAGS "-L$one/lib -Wl,-rpath,$one/lib" ' '; fi
    if [ -d "$one/lib/pkgconfig" ]; then prepend PKG_CONFIG_PATH "$one/lib/pkgconfig" :; fi
    if [ -d "$one/share/pkgconfig" ]; then prepend PKG_CONFIG_PATH "$one/share/pkgconfig" :; fi
done
prepend PATH "$NIX_BUILD_TOP/.tools" :

# Unpack one source; its directory is left in $unpacked, which is empty for a file that is no archive.
unpack() {
    file=${1##*/}
    file=${file#????????????????????????????????-}
    unpacked=
    if [ -d "$1" ]; then
        cp -Rp "$1" "$file"
        chmod -R u+w "$file"
        unpacked=$file
        return
    fi
    case $file in
        *.tar | *.tar.* | *.tgz | *.tbz2 | *.txz) mkdir .unpacked && tar -xf "$1" -C .unpacked ;;
        *.zip) mkdir .unpacked && unzip -q "$1" -d .unpacked ;;
        *)
            cp "$1" "$file"
            chmod u+w "$file"
            return
            ;;
    esac
    chmod -R u+w .unpacked
    set -- .unpacked/* .unpacked/.[!.]*
    if [ "$#" = 2 ] && [ -d "$1" ] && [ ! -e "$2" ]; then
        unpacked=${1#.unpacked/}
        mv "$1" "$unpacked"
        rmdir .unpacked
    else
        unpacked=${file%%.tar*}
        unpacked=${unpacked%.*}-source
        mv .unpacked "$unpacked"
    fi
}

directory=
for one in ${srcs-}; do
    unpack "$one"
    if [ -z "$directory" ]; then directory=$unpacked; fi
done
unset file unpacked one reversed
cd "${directory:-.}"

if [ -n "${build-}" ]; then
    eval "$build"
else
    ./configure --prefix="$out"
    make -j"$NIX_BUILD_CORES"
    make install
fi
"""
