"""Suites that look for what ordinary tests do not find. `python3 -m torture`, or script/torture, runs them.

    __main__    the command: which suites, how long, and the table at the end
    run         what a suite is given: its seed, its budget, a place for its data, and the counts it reports
    broken      builds that are broken on purpose, which each suite has to catch
    daemon      a daemon as a process, and a client that speaks idem.proto
    wire        the messages of idem.proto as dictionaries
    operations  what clients do and are told, and what must be true after that
    power, ...  the suites: each is a module with a function run(run) and the names of its broken builds

Only Python's standard library is used, so that a suite runs wherever the daemon is built."""
