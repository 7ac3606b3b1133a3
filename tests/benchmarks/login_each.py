"""What the no-op deploy is measured against: a paramiko login and `python3 -I -S -c pass` on each host, side by side.

python -m tests.benchmarks.login_each SSH_CONFIG FORKS HOST...
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import paramiko


def main() -> None:
    config_file, forks, *hosts = sys.argv[1:]
    config = paramiko.SSHConfig.from_path(config_file)

    def login(host: str) -> None:
        found = config.lookup(host)
        client = paramiko.SSHClient()
        client.load_host_keys(found["userknownhostsfile"].strip('"'))
        client.connect(
            found["hostname"],
            int(found["port"]),
            found["user"],
            key_filename=found["identityfile"][0].strip('"'),
            allow_agent=False,
            look_for_keys=False,
        )
        _, out, _ = client.exec_command("python3 -I -S -c pass")
        if out.channel.recv_exit_status() != 0:
            sys.exit(f"{host}: python3 failed")
        client.close()

    with ThreadPoolExecutor(int(forks)) as pool:
        list(pool.map(login, hosts))


main()
