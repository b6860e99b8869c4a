"""A Ray cluster on this machine, for tests: nodes of 2 CPUs, the first of which is the head; the others are killed.

    python machines.py NODES

It says the address; then, for each line that it reads, `kill` or `add`, it does that to a node, the oldest
but for the head.
"""

import os
import sys

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
os.environ.pop("ETUDE_WORKER", None)

from ray.cluster_utils import Cluster

TRIES = 5  # a node gives its own agents 15 s to start, which is short on a machine that does other things
NODE = {"num_cpus": 2, "object_store_memory": 80_000_000, "include_log_monitor": False, "include_dashboard": False}


def main() -> None:
    cluster, nodes = Cluster(), []

    def add() -> None:
        for left in range(TRIES, 0, -1):
            try:
                nodes.append(cluster.add_node(**NODE))
                return
            except Exception:
                if left == 1:
                    raise

    for _ in range(int(sys.argv[1])):
        add()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line == "kill\n":
            cluster.remove_node(nodes.pop(1), allow_graceful=False)
        else:
            add()
        print(line, end="", flush=True)
    cluster.shutdown()


main()
