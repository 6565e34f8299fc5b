"""Every benchmark, one after the other, each in a process of its own.

Usage: python -m benchmarks [--quick] [--json] [NAME ...]
       python -m benchmarks kafka [throughput | latency | recovery] [--json] [...]
       python -m benchmarks rivals [--only WORKLOAD/CONTENDER,...] [--json FILE] [...]

Those of Kafka and the rivals start a broker (Java and Maven, from a checkout), so they run only where they are named.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import click

SUITES = {
    "wire": ([], ["--records", "50000", "--rounds", "3"]),
    "log": ([], ["--records", "500000"]),
    "state": ([], ["--keys", "10000,100000"]),
    "windows": ([], ["--rows", "200000", "--held", "100000"]),
    "joins": ([], ["--rows", "100000", "--bids", "250000"]),
    "features": ([], ["--batches", "16"]),
    "end_to_end": ([], ["--records", "500000"]),
    "nexmark": ([], ["--events", "50000"]),
    "learning": ([], ["--rows", "40000"]),
    "entities": ([], ["--records", "10000,20000", "--shared", "10000", "--crowd", "20000"]),
    "harmonise": ([], ["--rows", "200000"]),
    "retail": ([], ["--until", "2010-12", "--rounds", "1", "--live", "5"]),
}
"""Arguments of a whole run and of a quick one."""


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(sorted(SUITES)))
@click.option("--quick", is_flag=True, help="Small sizes: to see that everything runs, not for figures.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with all figures, and the machine.")
def main(names: tuple[str, ...], quick: bool, as_json: bool) -> None:
    figures: dict[str, object] = {
        "machine": {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
        }
    }
    for name in names or tuple(SUITES):
        command = [sys.executable, "-m", f"benchmarks.{name}", *SUITES[name][1 if quick else 0]]
        if as_json:
            done = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE)
            figures[name] = json.loads(done.stdout)
        else:
            click.echo(f"\n== {name}")
            subprocess.run(command, check=True)
    if as_json:
        click.echo(json.dumps(figures, indent=1))


if sys.argv[1:2] == ["kafka"]:
    from benchmarks.kafka import main as kafka

    kafka(sys.argv[2:], prog_name="python -m benchmarks kafka")
elif sys.argv[1:2] == ["rivals"]:
    from benchmarks.rivals.__main__ import main as rivals

    rivals(sys.argv[2:], prog_name="python -m benchmarks rivals")
else:
    main()
