# Every form of derivation that is not experimental, and inputs whose hashes modulo are equal.
let
  system = "x86_64-linux";
  make = name: attributes: derivation ({ inherit name system; builder = "/bin/sh"; args = [ "-c" ": > $out" ]; } // attributes);

  dep = builtins.toFile "dep.txt" "a text\n";
  flat = make "hello.txt" {
    outputHashMode = "flat"; outputHashAlgo = "sha256";
    outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
  };
  # The same contents, fetched in another way: whatever is built from either has the same path.
  flatOtherwise = make "hello.txt" {
    builder = "/bin/otherwise"; outputHashMode = "flat"; outputHashAlgo = "sha256";
    outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
  };
  recursive = make "tree" {
    outputHashMode = "recursive"; outputHashAlgo = "sha256";
    outputHash = "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13";
  };
  sha1 = make "old" { outputHashMode = "flat"; outputHashAlgo = "sha1"; outputHash = "f572d396fae9206628714fb2ce00f72e94f2258f"; };
  md5 = make "older" { outputHashMode = "flat"; outputHashAlgo = "md5"; outputHash = "b1946ac92492d2347c6235b4d2611184"; };
  recursiveSha1 = make "old-tree" { outputHashMode = "recursive"; outputHashAlgo = "sha1"; outputHash = "f572d396fae9206628714fb2ce00f72e94f2258f"; };
  sha512 = make "long" {
    outputHashMode = "flat"; outputHashAlgo = "sha512";
    outputHash = "e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931f94aae41edda2c2b207a36e10f8bcb8d45223e54878f5b316e7ce3b6bc019629";
  };
  base = make "base" { outputs = [ "out" "dev" "zzz" ]; inherit dep; };
  escapes = make "escapes" { text = "quote \" backslash \\ newline \n tab \t return ${"\r"} dollar $ umlaut ä"; args = [ ]; };
  demo = make "demo-1.0" { inherit (base) dev; source = flat; inherit escapes; };
  # One derivation twice in all but how its source is fetched, and parents of both, in one and in two ways.
  first = make "middle" { outputs = [ "out" "lib" ]; source = flat; };
  second = make "middle" { outputs = [ "out" "lib" ]; source = flatOtherwise; };
  split = make "parent" { a = first.out; b = second.lib; };
  joined = make "parent" { a = first.out; b = first.lib; };
  plain = make "no-inputs" { };
in { inherit flat flatOtherwise recursive sha1 md5 recursiveSha1 sha512 base escapes demo first second split joined plain; }
