"""A channel of real Debian packages for two systems, made by real Nix, for `make soak` and `make bench`."""
