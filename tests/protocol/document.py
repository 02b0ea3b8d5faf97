"""PROTOCOL.md as programs read it: the tables under each heading, and the fenced blocks with the name above each."""
import re

from messages import DOCUMENT

SPAN = re.compile(r"(\d[\d,]*)(?:\.\.(\d[\d,]*))?")  # 16, or 1,000..86,400,000


class Block:
    """A fenced block: its kind (frame, or empty for a drawing), its text, and the last name that stood on a line before it."""

    def __init__(self, kind, name):
        self.kind, self.name, self.lines = kind, name, []


class Document:
    def __init__(self):
        with open(DOCUMENT, encoding="utf-8") as file:
            self.text = file.read()
        self.tables = {}  # heading -> its tables, each a list of rows, the head row first
        self.blocks = []
        heading, name, block, table = "", "", None, None
        for line in self.text.split("\n"):
            table = table if line.startswith("|") else None
            if block:
                block = None if line == "```" else block
                if block:
                    block.lines.append(line)
            elif line.startswith("```"):
                block = Block(line[3:], name)
                self.blocks.append(block)
            elif line.startswith("#"):
                heading = line.lstrip("# ")
            elif line.startswith("|"):
                if table is None:
                    table = []
                    self.tables.setdefault(heading, []).append(table)
                table.append([cell.strip() for cell in line.split("|")[1:-1]])
            elif match := re.match(r"`([a-z]+\.[a-z0-9-]+)`", line):
                name = match[1]

    def rows(self, heading, which=0):
        """Those of one of its tables below the head and its line; none if there is no such table."""
        return self.tables[heading][which][2:] if heading in self.tables else []

    def takes(self, message):
        """Field name -> what the table says that it takes."""
        return {row[0].strip("`"): row[3] for row in self.rows(message)}


def number(text):
    return int(text.replace(",", ""))


def spans(takes):
    """The spans of numbers, or of lengths, that a cell of the tables speaks of."""
    return [(number(least), number(most or least)) for least, most in SPAN.findall(takes)]
