# Unpacks Debian packages as the outputs of a derivation. What would lie in /usr lies in the output itself; programs and
# libraries find their interpreter and their libraries in the store, scripts the shell and what else the package depends on.
#
#   main, development    .deb files
#   depends              store paths; the libraries of all are on the run path, and nix-support/depends names them
#   libc, shell          store paths; empty for what cannot have them
#   tools                busybox and patchelf of the machine that builds
set -eu
export PATH=$TMPDIR/applets
"$tools/bin/busybox" mkdir "$PATH"
"$tools/bin/busybox" --install -s "$PATH"

patchelf() { "$tools/lib/ld-linux-x86-64.so.2" --library-path "$tools/lib" "$tools/bin/patchelf" "$@"; }

has() { case " $outputs " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

into() { # DEB... DIRECTORY: unpacked, with /usr folded into /
    eval "target=\${$#}"
    while [ $# -gt 1 ]; do
        mkdir -p "$TMPDIR/deb" "$TMPDIR/tree"
        (cd "$TMPDIR/deb" && ar x "$1" && xzcat data.tar.xz | tar -x -o -C "$TMPDIR/tree")
        for folder in "$TMPDIR/tree/usr" "$TMPDIR/tree"; do
            [ -d "$folder" ] || continue
            rm -rf "$target/.skip"
            [ "$folder" = "$TMPDIR/tree" ] && rm -rf "$folder/usr" "$folder/var" "$folder/run"
            mkdir -p "$target"
            chmod -R u+rwX "$folder"
            cp -a "$folder/." "$target/"
        done
        rm -rf "$TMPDIR/deb" "$TMPDIR/tree"
        shift
    done
}

move() { # FROM OUTPUT PATH...: what there is of these
    from=$1 to=$(eval "echo \$$2")
    shift 2
    for each in "$@"; do
        if [ -e "$from/$each" ]; then
            mkdir -p "$to/$(dirname "$each")"
            mv "$from/$each" "$to/$each"
        fi
    done
}

places() { for output in $outputs; do eval "echo \$$output"; done; }

# Where a path of the packages is now, in the output of $1 or in the first; nothing when it is in neither. No output
# but the first may be referred to by another: outputs must not refer to each other in a circle.
found() {
    path=${2#/}
    path=${path#usr/}
    for place in "$1" "$out"; do
        if [ -e "$place/$path" ] || [ -L "$place/$path" ]; then
            echo "$place/$path"
            return
        fi
    done
}

mend_link() { # OUTPUT LINK
    target=$(readlink "$2")
    case $target in
    /nix/store/*) return ;;
    /*) whole=$target ;;
    *)
        [ -e "$2" ] && return
        inside=${2#/nix/store/*/}
        whole=/$(dirname "$inside")/$target
        ;;
    esac
    now=$(found "$1" "$whole")
    if [ "$now" ] && [ "$now" != "$2" ]; then
        ln -sfn "$now" "$2"
    fi
}

is_elf() { [ "$(head -c 4 "$1" | od -An -tx1)" = " 7f 45 4c 46" ]; }

mend_elf() { # FILE
    interpreter=$(patchelf --print-interpreter "$1" 2>/dev/null || :)
    if [ "$interpreter" ]; then
        patchelf --set-interpreter "$loader" "$1"
    fi
    patchelf --set-rpath "$run_path" "$1" 2>/dev/null || :
}

mend_script() { # OUTPUT FILE
    line=$(head -n 1 "$2" | tr -d '\000')
    case $line in '#!'*) ;; *) return ;; esac
    program=$(echo "$line" | sed -e 's/^#! *//' -e 's/^[^ ]*env  *//' -e 's/ .*//')
    program=${program##*/}
    for place in "$1" "$out" $depends $shell; do
        case $program in sh) wanted=bash ;; *) wanted=$program ;; esac
        if [ -x "$place/bin/$wanted" ]; then
            sed -i "1s|^#! *[^ ]*\(/env  *[^ ]*\)\?|#!$place/bin/$wanted|" "$2"
            return
        fi
    done
}

into $main "$out"
has dev && into $development "$dev"
has man && move "$out" man share/man
has doc && move "$out" doc share/doc
has bin && move "$out" bin bin sbin
if has dev && has man && [ -d "$dev/share/man" ]; then
    cp -a "$dev/share/man/." "$man/share/man/"
    rm -rf "$dev/share/man"
fi

run_path= loader=
for place in "$out" $depends $libc; do
    for folder in "$place"/lib/*-linux-gnu "$place"/lib; do
        [ -d "$folder" ] && run_path=$run_path${run_path:+:}$folder
    done
done
if [ "$libc" ]; then
    loader=$(ls "$libc"/lib/*-linux-gnu/ld-linux-*.so.? | head -n 1)
    for place in $(places); do
        find "$place" -type f \( -name '*.so*' -o -perm -100 \) | while read -r file; do
            if is_elf "$file"; then mend_elf "$file"; else mend_script "$place" "$file"; fi
        done
    done
fi
for place in $(places); do
    find "$place" -type l | while read -r link; do mend_link "$place" "$link"; done
done

mkdir -p "$out/nix-support"
for each in $depends; do echo "$each"; done | sort -u >"$out/nix-support/depends"
for place in $(places); do mkdir -p "$place"; done
