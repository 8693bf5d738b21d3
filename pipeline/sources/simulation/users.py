"""Users: who sees a display, who views a page, and what a user is like; all computed from the user's number.

Events and views are dealt like cards: a random permutation maps the place in time to a slot, and users own consecutive
slots, as many as they have events. So a user's events lie anywhere in the 15 days and no user is ever stored.
Users 0.. have events (those with one event first); the users with page views alone follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.sources.simulation.geography import Geography
from pipeline.sources.simulation.randomness import I64, U64, Permutation, Stream, bit_slice, lookup
from pipeline.sources.simulation.scale import TOPICS, Scale

#: Share of users by number of events: 88.4 % one, 99.5 % fewer than five, at most 49, 1.168 on average.
_EVENTS = {
    1: 0.884,
    2: 0.0848,
    3: 0.0195,
    4: 0.0067,
    5: 0.0028,
    6: 0.0011,
    8: 0.0007,
    11: 0.0003,
    20: 0.00008,
    49: 0.00002,
}
#: The same for the page views of users without events: 65 % one (63.9 % of all users), 2.6 on average.
_VIEWS = {
    1: 0.652,
    2: 0.15,
    3: 0.063,
    4: 0.037,
    5: 0.024,
    7: 0.03,
    10: 0.019,
    16: 0.014,
    30: 0.008,
    60: 0.003,
    150: 0.001,
}
#: Desktop, mobile, tablet; 4 is written as `\N`.
_PLATFORMS = (0.36, 0.49, 0.15)
NULL_PLATFORM = 4
#: Topics by rank: the share of the rank-th is 1 / (rank + 6).
TOPIC_SHARES = 1.0 / (np.arange(TOPICS) + 6.0)
TOPIC_BITS = 12
_UUID_BITS = 56


class Slots:
    """Slots dealt to users. total: slots in all. shares: share of users by number of slots, the number 1 among them."""

    def __init__(self, total: int, shares: dict[int, float]) -> None:
        self.total = total
        mean = sum(count * share for count, share in shares.items()) / sum(shares.values())
        users = {count: int(total / mean * share) for count, share in shares.items() if count > 1}
        users = {1: total - sum(count * number for count, number in users.items())} | users
        self._counts = np.array(list(users), dtype=np.int64)
        numbers = np.array(list(users.values()), dtype=np.int64)
        self._slot_ends = np.cumsum(self._counts * numbers)
        self._slot_starts = self._slot_ends - self._counts * numbers
        self._user_starts = np.cumsum(numbers) - numbers
        self.users = int(numbers.sum())
        self.single_users = int(numbers[0])

    def owner(self, slot: I64) -> I64:
        """The user who owns a slot."""
        group = np.searchsorted(self._slot_ends, slot, side="right")
        user: I64 = self._user_starts[group] + (slot - self._slot_starts[group]) // self._counts[group]
        return user


@dataclass(frozen=True, slots=True)
class Traits:
    """What users are like, (n,) each. platform: 1..4 (4: unknown). geo: code of a place. first, second: topics."""

    platform: I64
    geo: I64
    first: I64
    second: I64

    def of(self, row: I64) -> Traits:
        """The traits at these rows."""
        return Traits(self.platform[row], self.geo[row], self.first[row], self.second[row])


class Users:
    """The users of a world; `views` is the number of page views of users without events."""

    def __init__(self, scale: Scale, seed: int, geography: Geography, views: int) -> None:
        self._event_slots = Slots(scale.displays, _EVENTS)
        self._view_slots = Slots(max(views, 1), _VIEWS)
        self._event_order = Permutation(scale.displays, Stream(seed, "users.events"))
        self._view_order = Permutation(max(views, 1), Stream(seed, "users.views"))
        self._traits = Stream(seed, "users.traits")
        self._uuid = Permutation(1 << _UUID_BITS, Stream(seed, "users.uuid"))
        self._geography = geography
        self._platforms = lookup(_PLATFORMS, 256) + 1
        self._topics = lookup(TOPIC_SHARES, 1 << TOPIC_BITS)
        self._null_platforms = scale.null_platforms
        self.with_events = self._event_slots.users
        #: Users from this number on, up to `with_events`, have several events.
        self.first_returning = self._event_slots.single_users

    def of_displays(self, index: I64) -> I64:
        """The user of each display, by the display's place in time."""
        return self._event_slots.owner(self._event_order(index))

    def of_views(self, index: I64) -> I64:
        """The user, without events, of each page view, by the view's place in time."""
        return self.with_events + self._view_slots.owner(self._view_order(index))

    def traits(self, user: I64) -> Traits:
        """What each user is like."""
        bits = self._traits.bits(user)
        platform = self._platforms[bit_slice(bits, 0, 8)]
        geo = self._geography.table[bit_slice(bits, 8, 16)]
        first = self._topics[bit_slice(bits, 24, TOPIC_BITS)]
        second = self._topics[bit_slice(bits, 36, TOPIC_BITS)]
        few = np.flatnonzero(user < 16)  # the first users carry the rare forms; none of them has a second event
        rare = self._geography.rare
        odd_place = few[user[few] < len(rare)]
        geo[odd_place] = rare[user[odd_place]]
        odd_platform = few[(user[few] >= len(rare)) & (user[few] < len(rare) + self._null_platforms)]
        platform[odd_platform] = NULL_PLATFORM
        return Traits(platform, geo, first, second)

    def uuids(self, user: I64) -> pa.Array:
        """14 hexadecimal digits, one to one with the users."""
        return hexadecimal(self._uuid(user).astype(np.uint64), _UUID_BITS // 8)


def hexadecimal(bits: U64, width: int) -> pa.Array:
    """The lower `width` bytes of each number as text of 2 * width hexadecimal digits."""
    digits = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), dtype="<u2")
    raw = bits.astype("<u8", copy=False).view(np.uint8).reshape(len(bits), 8)[:, :width]
    return fixed_text(digits[raw].view(np.uint8).reshape(len(bits), 2 * width))


def fixed_text(characters: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> pa.Array:
    """(n, width) ASCII codes as an Arrow array of n texts."""
    count, width = characters.shape
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(characters))]
    return pa.Array.from_buffers(pa.string(), count, buffers)
