"""cluster-events: is the platform healthy, and since when?"""

__version__ = "0.1.0"
