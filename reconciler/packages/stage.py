"""The standard builder of recipes: one shell script, the same store path for every package.

It unpacks the sources, goes into the first, applies the patches, and runs the recipe's script, or `./configure`,
`make`, `make install`.
What a script finds: $out, and every other output under its name; $src and $srcs; $name, $pname, $version; each input
under its own name; bin of every input before the host's programs on PATH; CPPFLAGS, LDFLAGS (with a run path),
PKG_CONFIG_PATH and CMAKE_PREFIX_PATH for inputs that have such directories; SOURCE_DATE_EPOCH and a gzip that writes
no time, so that a build can be repeated. Then what belongs into other outputs is moved there, and the recipe's check
runs, with the package's own programs first on PATH.

A change of this text changes the store path of everything that recipes make.
"""

from __future__ import annotations

import re

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
    if [ -d "$one/lib" ]; then
        # A run path only to what is loaded from there: it would make a `dev` output part of what is installed.
        set -- "$one"/lib/*.so*
        if [ -e "$1" ]; then prepend LDFLAGS "-Wl,-rpath,$one/lib" ' '; fi
        prepend LDFLAGS "-L$one/lib" ' '
    fi
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

# Patches, in their order: for each what is stripped off the names in it, and its file.
for one in ${patches-}; do
    case $one in
        ?)
            strip=$one
            continue
            ;;
    esac
    file=${one##*/}
    file=${file#????????????????????????????????-}
    echo "applying $file"
    if ! patch -p"$strip" --force --no-backup-if-mismatch --input="$one"; then
        echo "the patch $file does not apply to ${directory:-the source}; names in it were stripped of $strip" >&2
        exit 1
    fi
done
unset file one strip

outputs=${outputs:-out}
if [ -n "${build-}" ]; then
    eval "$build"
else
    ./configure --prefix="$out"
    make -j"$NIX_BUILD_CORES"
    make install
fi

# Move what belongs into another output, unless the script has put something there itself.
give() { # OUTPUT PATH...
    eval "target=\$$1"
    shift
    if [ -e "$target" ]; then return; fi
    for one in "$@"; do
        for found in "$out"/$one; do
            if [ -e "$found" ] || [ -L "$found" ]; then
                place=$target/${found#"$out"/}
                mkdir -p "${place%/*}"
                mv "$found" "$place"
                rmdir -p --ignore-fail-on-non-empty "${found%/*}" 2>/dev/null || :
            fi
        done
    done
}
for each in $outputs; do
    case $each in
        bin) give bin bin sbin ;;
        dev) give dev include lib/pkgconfig share/pkgconfig lib/cmake share/aclocal 'lib/*.a' 'lib/*.la' ;;
        man) give man share/man man ;;
        doc) give doc share/doc share/info ;;
    esac
done
if [ "$outputs" != out ] && [ ! -e "$out" ]; then mkdir -p "$out"; fi

# With a pinned toolchain, what is installed runs where there is no /bin/sh: scripts name an interpreter in the store.
# One that is not found there is left as it is, and told of when the outputs are checked.
in_store() { # PROGRAM FILE: its place in an input, the toolchain's shell, or an output, where it is not FILE itself
    for place in ${inputs-} "$toolchainShell" $installed; do
        if [ -x "$place/bin/$1" ] && [ ! -d "$place/bin/$1" ] && [ "$place/bin/$1" != "$2" ]; then
            echo "$place/bin/$1"
            return
        fi
    done
}
name_interpreter() { # FILE
    if [ "$(head -c 2 "$1" | tr -d '\0')" != '#!' ]; then return; fi
    IFS= read -r head < "$1" || :
    head=${head#??}
    head=${head#"${head%%[! ]*}"}
    case $head in "$NIX_STORE"/* | '') return ;; esac
    program=${head%% *}
    if [ "${program##*/}" = env ]; then
        head=${head#"$program"}
        head=${head#"${head%%[! ]*}"}
        case $head in '-S '*) head=${head#-S } head=${head#"${head%%[! ]*}"} ;; esac
        program=${head%% *}
    fi
    found=$(in_store "${program##*/}" "$1")
    if [ -z "$found" ]; then return; fi
    { printf '#!%s%s\n' "$found" "${head#"$program"}"; tail -n +2 "$1"; } > "$NIX_BUILD_TOP/.tools/script"
    chmod u+w "$1"
    cat "$NIX_BUILD_TOP/.tools/script" > "$1"
}
if [ -n "${toolchainShell-}" ]; then
    installed=
    for each in $outputs; do eval "installed=\"\$installed \$$each\""; done
    find $installed -type f -perm -100 > "$NIX_BUILD_TOP/.tools/programs"
    while IFS= read -r each; do
        if [ -f "$each" ]; then name_interpreter "$each"; fi
    done < "$NIX_BUILD_TOP/.tools/programs"
fi

if [ -n "${check-}" ]; then
    for each in $outputs; do
        eval "target=\$$each"
        if [ -d "$target/bin" ]; then prepend PATH "$target/bin" :; fi
    done
    eval "$check"
fi
"""


def variable_name(package: str) -> str:
    """The variable under which a build script finds an input: `gnu-which` is $gnu_which."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", package)
    return f"_{name}" if name[0].isdigit() else name
