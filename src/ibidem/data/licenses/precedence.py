"""How a license that is stated for a file relates to the one that its own head states.

Source: https://reuse.software/spec-3.3/, `precedence` of an annotation.
"""

from ibidem.records import Precedence

CLOSEST: Precedence = "closest"
"""The file's own head counts; what is stated for it counts if the head states nothing."""
AGGREGATE: Precedence = "aggregate"
"""Both count."""
OVERRIDE: Precedence = "override"
"""What is stated for the file counts alone; its head is not read."""
