"""Measures one other process pool: pools.py PEER [--quick] [--skip a,b]

Prints a JSON object a line: {"begin": ROW} before each measurement, then {"row": ROW, "value": FIGURE, "note": TEXT}, or
{"row": ROW, "failed": TEXT}. Rows and units are those of `compare`. A measurement that hangs is ended from outside, and the
script is run again without it. Every result is checked.
"""

import argparse
import glob
import json
import os
import resource
import tempfile
import threading
import time

MIB = 1 << 20
GAP = 0.003
CRASH_LIMIT = 20.0
VICTIM_LIMIT = 1.0


def tiny(n):
    return n + 1


def echo(data):
    return data


def crash(stamp):
    with open(stamp, "wb", buffering=0) as file:
        file.write(time.monotonic_ns().to_bytes(8, "little"))
    os.abort()


class Unsupported(Exception):
    """The pool has no such operation."""


class Pool:
    """What is measured of a pool; a subclass for each library."""

    def __init__(self, workers):
        self.workers = workers

    def map(self, function, items):
        raise NotImplementedError

    def submit(self, function, argument):
        raise NotImplementedError

    def get(self, handle, timeout=None):
        return handle.get(timeout)

    def apply(self, function, argument):
        return self.get(self.submit(function, argument))

    def close(self):
        raise NotImplementedError

    def abandon(self):
        self.close()


class Multiprocessing(Pool):
    def __init__(self, workers):
        super().__init__(workers)
        self.pool = self.library().Pool(workers)

    @staticmethod
    def library():
        import multiprocessing

        return multiprocessing

    def map(self, function, items):
        return self.pool.map(function, items)

    def submit(self, function, argument):
        return self.pool.apply_async(function, (argument,))

    def close(self):
        self.pool.close()
        self.pool.join()

    def abandon(self):
        self.pool.terminate()
        self.pool.join()


class Billiard(Multiprocessing):
    @staticmethod
    def library():
        import billiard

        return billiard


class Executor(Pool):
    def __init__(self, workers):
        super().__init__(workers)
        self.pool = self.make(workers)

    @staticmethod
    def make(workers):
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(workers)

    def map(self, function, items):
        return list(self.pool.map(function, items))

    def submit(self, function, argument):
        return self.pool.submit(function, argument)

    def get(self, handle, timeout=None):
        return handle.result(timeout)

    def close(self):
        self.pool.shutdown(wait=True)


class Loky(Executor):
    @staticmethod
    def make(workers):
        import loky

        return loky.ProcessPoolExecutor(workers)


class Joblib(Pool):
    def __init__(self, workers):
        import joblib

        # With one job it runs the function in this process.
        super().__init__(max(workers, 2))
        self.joblib = joblib
        self.parallel = joblib.Parallel(n_jobs=self.workers, backend="loky")

    def map(self, function, items):
        return self.parallel(self.joblib.delayed(function)(item) for item in items)

    def submit(self, function, argument):
        raise Unsupported("no single submits")

    def apply(self, function, argument):
        return self.map(function, [argument])[0]

    def close(self):
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)

    def abandon(self):
        pass


class Pebble(Executor):
    @staticmethod
    def make(workers):
        import pebble

        return pebble.ProcessPool(max_workers=workers)

    def map(self, function, items):
        return list(self.pool.map(function, items).result())

    def submit(self, function, argument):
        return self.pool.schedule(function, args=(argument,))

    def close(self):
        self.pool.close()
        self.pool.join()

    def abandon(self):
        self.pool.stop()
        self.pool.join()


class Mpire(Pool):
    def __init__(self, workers):
        import mpire

        super().__init__(workers)
        self.pool = mpire.WorkerPool(n_jobs=workers, keep_alive=True)

    def map(self, function, items):
        return self.pool.map(function, items)

    def submit(self, function, argument):
        return self.pool.apply_async(function, (argument,))

    def close(self):
        self.pool.stop_and_join()

    def abandon(self):
        self.pool.terminate()


PEERS = {
    "multiprocessing": Multiprocessing,
    "billiard": Billiard,
    "executor": Executor,
    "loky": Loky,
    "joblib": Joblib,
    "pebble": Pebble,
    "mpire": Mpire,
}


def check(holds):
    if not holds:
        raise AssertionError("a wrong result")


def median(values):
    return percentile(values, 50)


def percentile(values, percent):
    values = sorted(values)
    return values[max(0, -(-len(values) * percent // 100) - 1)]


def descendants():
    """Of this process, as in the other programs: children, and theirs."""
    parents = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as file:
                text = file.read()
        except OSError:
            continue
        parents.append((int(path.split("/")[2]), int(text.rpartition(")")[2].split()[1])))
    found = [os.getpid()]
    for parent in found:
        found.extend(pid for pid, of in parents if of == parent)
    return found[1:]


def family_memory():
    """Of this process and all its descendants, in MB: Pss_Anon + Pss_Shmem, and Pss."""
    own = everything = 0
    for pid in [os.getpid(), *descendants()]:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    own += int(line.split()[1]) * 1024
                elif line.startswith("Pss:"):
                    everything += int(line.split()[1]) * 1024
    return own / 1e6, everything / 1e6


def activity():
    """By thread: switches, and ns of processor time. All threads of the family but the calling one."""
    seen = {}
    for pid in [os.getpid(), *descendants()]:
        for task in glob.glob(f"/proc/{pid}/task/[0-9]*"):
            thread = int(task.split("/")[4])
            if thread == threading.get_native_id():
                continue
            try:
                with open(f"{task}/status") as file:
                    switches = sum(int(line.split()[1]) for line in file if "ctxt_switches:" in line)
                with open(f"{task}/schedstat") as file:
                    ran = int(file.read().split()[0])
            except OSError:
                continue
            seen[thread] = (switches, ran)
    return seen


class Measurements:
    def __init__(self, make, quick):
        self.make, self.quick = make, quick

    def rate(self, run):
        """Millions a second of as many tasks as take long enough to tell."""
        count, enough = 500, 0.1 if self.quick else 0.3
        run(count)
        while True:
            start = time.perf_counter()
            run(count)
            spent = time.perf_counter() - start
            if spent >= enough or count >= 2_000_000:
                return count / spent / 1e6
            count = min(2_000_000, int(count * min(20, max(2, 1.3 * enough / spent))))

    def map(self):
        pool = self.make(2)

        def run(count):
            check(list(pool.map(tiny, range(count))) == list(range(1, count + 1)))

        value = self.rate(run)
        pool.close()
        return {"map": value}

    def singles(self):
        pool = self.make(2)

        def run(count):
            handles = [pool.submit(tiny, n) for n in range(count)]
            check([pool.get(handle) for handle in handles] == list(range(1, count + 1)))

        value = self.rate(run)
        pool.close()
        return {"singles": value}

    def trip_hot(self):
        return self.trips("trip_hot", 200 if self.quick else 1000, 0)

    def trip_asleep(self):
        return self.trips("trip_asleep", 60 if self.quick else 200, GAP)

    def trips(self, name, count, gap):
        pool = self.make(1)
        for _ in range(10):
            check(pool.apply(tiny, 1) == 2)
        times = []
        for n in range(count):
            if gap:
                time.sleep(gap)
            start = time.perf_counter()
            result = pool.apply(tiny, n)
            times.append((time.perf_counter() - start) * 1e6)
            check(result == n + 1)
            if sum(times) > 2e6:
                break
        pool.close()
        return {f"{name}_p50": median(times), f"{name}_p99": percentile(times, 99)}

    def echo(self):
        pool, figures = self.make(1), {}
        for name, length, count in [("echo_64k", 64 << 10, 100), ("echo_1m", MIB, 20), ("echo_16m", 16 * MIB, 4)]:
            data = os.urandom(length)
            times = []
            for _ in range(2 + count):
                start = time.perf_counter()
                result = pool.apply(echo, data)
                times.append(time.perf_counter() - start)
                check(result == data)
            times = times[2:]
            figures[name] = 2 * length * len(times) / sum(times) / 1e9
        pool.close()
        return figures

    def start(self):
        times = []
        for _ in range(2 if self.quick else 4):
            start = time.perf_counter()
            pool = self.make(2)
            result = pool.apply(tiny, 1)
            pool.close()
            times.append((time.perf_counter() - start) * 1e3)
            check(result == 2)
        return {"start": median(times)}

    def memory(self):
        before = family_memory()
        pool = self.make(2)
        check(list(pool.map(tiny, range(1000))) == list(range(1, 1001)))
        after = family_memory()
        pool.close()
        return {"memory": after[0] - before[0], "memory_all": after[1] - before[1]}

    def idle(self):
        pool = self.make(2)
        check(list(pool.map(tiny, range(1000))) == list(range(1, 1001)))
        # The last of the work; then time passing is the subject.
        time.sleep(0.2)
        before = activity()
        time.sleep(1.0)
        after = activity()
        pool.close()
        moved = [(now[0] - before.get(thread, (0, 0))[0], now[1] - before.get(thread, (0, 0))[1]) for thread, now in after.items()]
        return {"idle_wakeups": sum(switches for switches, _ in moved), "idle_cpu": sum(ran for _, ran in moved) / 1e3}

    def crash(self):
        pool, note = self.make(1), ""
        check(pool.apply(tiny, 1) == 2)
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            try:
                victim = pool.submit(crash, file.name)
                next_one = pool.submit(tiny, 7)
            except Unsupported:
                victim = None
            try:
                if victim is None:
                    pool.apply(crash, file.name)
                result = pool.get(next_one, CRASH_LIMIT)
            except Exception as error:
                if type(error).__name__ == "TimeoutError":
                    raise
                note = "in a new pool"
                if victim is not None:
                    pool.abandon()
                pool = self.make(1)
                result = pool.apply(tiny, 7)
            end = time.monotonic_ns()
            check(result == 8)
            value = (end - int.from_bytes(file.read(), "little")) / 1e6
        if victim is not None and not note:
            try:
                pool.get(victim, VICTIM_LIMIT)
            except Exception as error:
                if type(error).__name__ == "TimeoutError":
                    note = f"the crashed call has not ended after {VICTIM_LIMIT:.0f} s"
            else:
                check(False)
        # Not closed: a pool that has lost a worker may not end. The process group is killed from outside.
        return {"crash": (value, note)}


# The ones that may hang are last.
ORDER = ["map", "singles", "trip_hot", "trip_asleep", "echo", "start", "memory", "idle", "crash"]


def say(**fields):
    print(json.dumps(fields), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--skip", default="")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Workers that crash on purpose must not fill the screen.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    measurements = Measurements(PEERS[options.peer], options.quick)
    skipped = options.skip.split(",")
    for name in ORDER:
        if name in skipped:
            continue
        say(begin=name)
        try:
            for row, value in getattr(measurements, name)().items():
                value, note = value if isinstance(value, tuple) else (value, "")
                say(row=row, value=value, note=note)
        except Unsupported as error:
            say(row=name, failed=str(error))
        except Exception as error:
            say(row=name, failed=f"{type(error).__name__}: {error}"[:200])
    say(end=True)
    # Threads of a pool that is broken must not keep this process.
    os._exit(0)


if __name__ == "__main__":
    main()
