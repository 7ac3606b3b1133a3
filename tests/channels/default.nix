# One derivation for each entry of packages.json, in which dependencies come first. `tools`: busybox and patchelf, which
# run on the machine that builds; whatever a derivation's system is, unpacking needs nothing else.
{ directory, system }:
let
  packages = builtins.fromJSON (builtins.readFile (directory + "/packages.json"));
  tools = builtins.path { path = directory + "/tools"; name = "tools"; };
  file = deb: builtins.path { path = directory + "/debs/${deb}"; name = deb; };

  make = made: spec:
    let
      out = name: made.${name}.out or made.${name};
    in
    made // {
      ${spec.key} = derivation {
        inherit (spec) name outputs;
        inherit system tools;
        builder = "${tools}/bin/busybox";
        args = [ "sh" ./unpack.sh ];
        main = map file spec.main;
        development = map file spec.development;
        depends = map out spec.depends;
        shell = if spec.shell == null then "" else out spec.shell;
        libc = if spec.libc == null then "" else out spec.libc;
        allowSubstitutes = false;
      };
    };

  all = builtins.foldl' make { } (builtins.filter (spec: spec.system == system) packages);
in
builtins.concatMap (one: map (output: one.${output}) one.outputs) (builtins.attrValues all)
