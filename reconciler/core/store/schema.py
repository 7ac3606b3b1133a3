"""The tables and directories of a store, as Nix 2.3 and later know them (schema 10).

What lies where:

    <root>/nix/store                  the paths; .links for hard links among equal files
    <root>/nix/var/nix/db/schema      "10", without a newline
    <root>/nix/var/nix/db/db.sqlite   the tables below; write-ahead log
    <root>/nix/var/nix/db/big-lock    held shared by everyone who has the database open
    <root>/nix/var/nix/gc.lock        held exclusively by a running garbage collection
    <root>/nix/var/nix/gc-socket      where it listens for new temporary roots
    <root>/nix/var/nix/temproots      a file a process
    <root>/nix/var/nix/gcroots        links to what must stay, `auto` for indirect ones
    <root>/nix/var/nix/profiles       profiles and generations
"""

from __future__ import annotations

SCHEMA_VERSION = b"10"

TABLES = """
create table if not exists ValidPaths (
    id integer primary key autoincrement not null,
    path text unique not null,
    hash text not null,
    registrationTime integer not null,
    deriver text,
    narSize integer,
    ultimate integer,
    sigs text,
    ca text
);
create table if not exists Refs (
    referrer integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
create index if not exists IndexReferrer on Refs(referrer);
create index if not exists IndexReference on Refs(reference);
create trigger if not exists DeleteSelfRefs before delete on ValidPaths begin
    delete from Refs where referrer = old.id and reference = old.id;
end;
create table if not exists DerivationOutputs (
    drv integer not null,
    id text not null,
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
create index if not exists IndexDerivationOutputs on DerivationOutputs(path);
"""

# Directories of a new store below its root, with the modes that Nix gives them.
STORE_DIRECTORIES = ("nix/store", "nix/store/.links")
STATE_DIRECTORIES = ("db", "gcroots", "gcroots/auto", "profiles", "profiles/per-user", "temproots")
