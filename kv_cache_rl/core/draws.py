"""Pseudo-random words: SplitMix64, for numpy arrays and for compiled code.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

import numpy as np

WEYL = np.uint64(0x9E3779B97F4A7C15)
"""The step of the counter: word k of a stream is ``mixed(seed + k * WEYL)``."""
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mixed(word):
    """64 well-mixed bits of a counter: a uint64 array of any shape, or a scalar in compiled code."""
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


def unit(word):
    """A uniform number in [0, 1) from the upper 53 bits of a word, in compiled code."""
    return np.float64(word >> np.uint64(11)) / 9007199254740992.0
