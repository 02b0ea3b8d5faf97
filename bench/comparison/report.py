"""What was measured, as a table, a document and a chart."""
import os
import platform
import shutil
import statistics
import subprocess
import tempfile


class Row:
    """One line: the figures of both sides round by round, and what the ratio - or, with one side only, the figure - has to be."""

    def __init__(self, cell, what, unit, left, lefts, right=None, rights=None, goal=None, in_chart=False, less_is_better=False,
                 scale=1.0, digits=1, note=""):
        self.cell, self.what, self.unit, self.left, self.right = cell, what, unit, left, right
        self.lefts, self.rights = lefts, rights
        self.goal, self.in_chart, self.less_is_better = goal, in_chart, less_is_better
        self.scale, self.digits, self.note = scale, digits, note

    def values(self):
        """What the goal is about."""
        if self.rights is None:
            return [value / self.scale for value in self.lefts]
        return [left / right for left, right in zip(self.lefts, self.rights) if right]

    def reached(self):
        if self.goal is None or not self.values():
            return None
        sign, bound = self.goal
        median = statistics.median(self.values())
        return median >= bound if sign == "≥" else median <= bound

    def figure(self, numbers):
        return f"{statistics.median(numbers) / self.scale:,.{self.digits}f} {self.unit}".strip()

    def fields(self):
        """The cells of its line in a table."""
        values = self.values()
        spread = f"{statistics.median(values):.2f}" if values else "–"
        if len(values) > 1:
            spread += f" ({min(values):.2f} – {max(values):.2f})"
        goal = f"{self.goal[0]} {self.goal[1]:g}" if self.goal else "–"
        reached = {None: "", True: "yes", False: "**no**"}[self.reached()]
        right = f"{self.right}: {self.figure(self.rights)}" if self.rights else "–"
        what = self.what + (f" ({self.note})" if self.note else "")
        return [what, f"{self.left}: {self.figure(self.lefts)}", right, spread, goal, reached]


class Failure:
    """A cell that did not work."""
    goal, in_chart = None, False

    def __init__(self, cell, what):
        self.cell, self.what = cell, what

    def reached(self):
        return False

    def fields(self):
        return [f"{self.cell}: failed: {self.what}", "–", "–", "–", "–", "**no**"]


HEAD = ["", "figure (median)", "beside", "ratio (spread), or figure", "goal", "reached"]


def table(rows):
    return "\n".join("| " + " | ".join(fields) + " |" for fields in [HEAD, ["---"] * len(HEAD)] + [row.fields() for row in rows])


def output_of(*command, executable=None):
    try:
        return subprocess.run(command, executable=executable, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def first_of(path, name):
    with open(path) as file:
        for line in file:
            if line.startswith(name):
                return line.split(":", 1)[1].strip()
    return "unknown"


def machine(work, load):
    memory_gib = int(first_of("/proc/meminfo", "MemTotal").split()[0]) / 1024 / 1024
    return [("processor", f"{first_of('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores"),
            ("memory", f"{memory_gib:.0f} GiB"),
            ("file system", output_of("findmnt", "-n", "-o", "FSTYPE", "--target", work)),
            ("kernel", f"{platform.system()} {platform.release()}"),
            ("load at the start", f"{load:.2f}")]


def cached(build, name):
    """One of a build directory's settings."""
    with open(os.path.join(build, "CMakeCache.txt")) as file:
        for line in file:
            if line.startswith(name + ":"):
                return line.split("=", 1)[1].strip()
    return ""


def versions(build, redis):
    gcc = output_of(cached(build, "CMAKE_C_COMPILER") or "gcc", "--version").split("\n")[0]
    kind = cached(build, "CMAKE_BUILD_TYPE") + (", with sanitizers" if cached(build, "IDEMD_SANITIZE") == "ON" else "")
    return [("idemd", output_of("git", "-C", cached(build, "CMAKE_HOME_DIRECTORY"), "describe", "--always", "--dirty", "--tags")),
            ("Redis", output_of("redis-server", "--version", executable=redis)),
            ("LMDB", output_of("pkg-config", "--modversion", "lmdb")),
            ("compiler", f"{gcc}, {kind}")]


# One horizontal bar a row; the whisker is the spread, the tick the goal.
CHART = """set terminal svg size 960,{height} font 'sans-serif,13' background '#ffffff'
set output '{output}'
set title 'idemd to {right}' font ',16'
set xlabel "times as fast as {right} (latencies: its figure divided by ours)\\nbars: medians of {rounds} rounds; whiskers: their spread; diamonds: the goals"
set xrange [0:{most}]
set yrange [-0.6:{last}]
set grid xtics lc rgb '#dddddd'
set style fill solid 0.85 noborder
set border 3 lc rgb '#666666'
set tics nomirror
set key off
set arrow 1 from 1.0,-0.6 to 1.0,{last} nohead lw 2 lc rgb '#b03030' front
set lmargin 36
plot '{data}' using (0):1:(0):2:($1-0.32):($1+0.32):ytic(6) with boxxyerrorbars lc rgb '#7fa8c9', \\
     '' using 2:1:3:4 with xerrorbars pt 0 lw 2 lc rgb '#1f3f5f', \\
     '' using 5:1 with points pt 13 ps 1.1 lc rgb '#d07000'
"""


def chart(rows, path, rounds):
    """False: there is nothing to draw, or no gnuplot."""
    rows = [row for row in rows if row.in_chart and row.values()]
    gnuplot = shutil.which("gnuplot")
    if not rows or not gnuplot:
        return False
    folder = tempfile.mkdtemp(prefix="idem-chart-")
    try:
        data = os.path.join(folder, "data")
        most = 0.0
        with open(data, "w") as file:
            for at, row in enumerate(reversed(rows)):
                turn = (lambda x: 1 / x) if row.less_is_better else (lambda x: x)
                values = sorted(turn(value) for value in row.values())
                goal = turn(row.goal[1]) if row.goal else float("nan")
                most = max([most, values[-1]] + ([goal] if row.goal else []))
                file.write(f'{at} {statistics.median(values):.4f} {values[0]:.4f} {values[-1]:.4f} {goal:.4f} "{row.what}"\n')
        script = CHART.format(height=140 + 34 * len(rows), output=os.path.abspath(path), data="data", right="Redis always", rounds=rounds,
                              most=f"{most * 1.05:.2f}", last=len(rows) - 0.4)
        subprocess.run([gnuplot], cwd=folder, input=script, text=True, check=True, timeout=60)
        return True
    finally:
        shutil.rmtree(folder)


def document(comparison, rows, drawn):
    """RESULTS.md. `comparison` says how it was made."""
    goals = [row for row in rows if row.goal or isinstance(row, Failure)]
    reached = sum(row.reached() is True for row in goals)
    lines = ["# What idemd reaches", "",
             f"Made by `{comparison.command}` on {comparison.date}: {comparison.rounds} rounds, in which the targets take turns, each on "
             "fresh directories. A ratio is that of one round; the table has the median of the rounds and the lowest and highest. "
             "Both sides are driven by the same loop, `idem-bench`, on a Unix socket, with the same bytes.",
             "Redis: `SET NX EX`, `SET XX EX`, `GET`; AOF with `appendfsync always` unless said otherwise, without rewrites of the AOF. "
             "`50×16` is 50 connections with 16 requests in flight on each.", "",
             f"{reached} of {len(goals)} goals reached.", ""]
    if drawn:
        lines += ["![Ratios to Redis](RESULTS.svg)", ""]
    for title, wanted in comparison.sections():
        part = [row for row in rows if wanted(row)]
        if part:
            lines += [f"## {title}", "", table(part), ""]
    lines += ["## Where", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in machine(comparison.work, comparison.load) + comparison.versions]
    return "\n".join(lines) + "\n"
