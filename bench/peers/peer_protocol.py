"""How bench/lib/peer.mjs asks: a line of JSON on stdin is a case, a line of JSON on stdout is its answer."""
import json
import os
import statistics
import sys
import time
import traceback

# Libraries print what they like: that goes to stderr.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def serve(measure):
    for line in sys.stdin:
        try:
            answer = measure(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


def milliseconds(work, synchronize=lambda: None):
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return 1000 * (time.perf_counter() - began)


def median_milliseconds(work, samples, synchronize=lambda: None):
    """Of `samples` runs after two that are not counted."""
    return statistics.median([milliseconds(work, synchronize) for _ in range(samples + 2)][2:])
