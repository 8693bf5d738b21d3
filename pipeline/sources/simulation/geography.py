"""Where users are: the places of the events file, with the shares that its first hour shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.sources.simulation.randomness import I64, lookup

#: American states with their displays in 38,000, and their largest television markets (DMA), the largest first.
_STATES = (
    "CA 7000: 803 807 862 825 866; TX 3581: 618 623 641 635 625; NY 2400: 501 514 538 532 555; "
    "FL 2400: 528 539 534 548 561; IL 1610: 602 648 609 675 610; WA 1284: 819 881 820 810; AZ 1005: 753 789 771; "
    "CO 921: 751 752 773 790; PA 1229: 504 508 566 577 574; OH 1190: 510 535 515 542 547; "
    "MI 992: 505 563 513 551 540; OR 653: 820 801 813 821 810; NC 927: 560 517 518 567 545; "
    "GA 923: 524 507 503 520 525; NJ 922: 501 504; VA 803: 511 544 556 573 584; MN 657: 613 611 724 676 702; "
    "WI 583: 617 669 658 702 705; TN 544: 659 640 557 575 531; MO 540: 609 616 619 604 632; "
    "MD 530: 512 511 576 508; UT 390: 770; NV 379: 839 811 770; MA 663: 506 543 521 532; "
    "IN 461: 527 602 588 509 649; AL 401: 630 691 686 698 522; LA 388: 622 716 612 642 628; "
    "OK 348: 650 671 657 627 603; IA 302: 679 637 624 682 611; CT 349: 533 501; SC 295: 567 546 519 570 517; "
    "KS 283: 616 678 605 603 722; KY 280: 529 541 515 564 649; NM 205: 790 765 634 633 753; "
    "ID 203: 757 881 758 760 770; HI 152: 744; AR 209: 693 670 734 619 628; MS 207: 718 746 640 710 673; "
    "NE 201: 652 722 624 740 725; MT 113: 762 754 756 755 766; DC 156: 511; AK 82: 743 745 747; "
    "WV 102: 564 598 554 559 511; SD 92: 725 764 624; DE 85: 504 576; ND 82: 724 687; "
    "WY 66: 767 759 770 756 758; RI 79: 521; NH 87: 506 523 500; ME 83: 500 537 552; VT 42: 523 506 532"
)
#: Other countries with their displays in 47,000, and their regions.
_COUNTRIES = (
    "CA 2812: ON BC AB QC SK; GB 2100: H9 A7 E4 B7 H4; AU 1025: 02 07 04 08 05; IN 630: 16 19 07 25 02; "
    "NZ 257: E7 E9 G2 F1 G1; SG 275: 00; ZA 252: 06 11 02 05 07; MY 203: 14 12 01 09 11; PH 151: D9 F2 21 B7 13; "
    "DE 227: 07 02 01 08 16; SE 92: 26 28 27 08 10; JP 85: 40 04 19 01 32; NL 84: 11 06 15 07 09; "
    "MX 76: 09 02 06 07 22; AE 74: 03 01 06 02; HK 67: 00; DK 48: 17 21 18 20 19; FR 107: A8 B8 B9 C1 A4; "
    "IT 77: 07 09 04 08 12; CH 35: 25 23 05 22 04; ID 33: 04 08 30 07 10; NG 31: 05 37; FI 31: 13 15 14; "
    "KE 30: 05; NO 29: 12 01 04 02 07; AT 27: 09 07 02 04 05; TH 26: 40 57 60; VN 25: 20 44 43 52 54; PR 23: 00; "
    "ES 53: 29 56 51 07 32; TR 18: 34 35 68 07 14; BE 17: 11 01 04 09 12; GR 16: 35 20 25; PK 16: 04 05 08 03; "
    "IE 45: 07 06 16 19; SA 15: 10 06 14; CN 15: 23 30 03 16 25; QA 14: 01; KR 14: 11 13 12; IL 24: 05 04 02 06; "
    "BR 14: 27 13 26 07 15; JM 13: 08 10 12; PL 12: 78 83 86 72 73; RO 9: 10 30 14; CZ 9: 52 78 89"
)
#: Rare forms; the first users of every world carry them, so that no reader goes untested. `NA` is Namibia.
RARE = ("", "--", "EU", "NA")
_RARE_SHARE = 1.5e-5
_AMERICANS_WITHOUT_STATE = 1417
_OTHERS_WITHOUT_REGION = 0.066
TABLE_BITS = 16


@dataclass(frozen=True, slots=True)
class Geography:
    """All places. names: (P,) geo_location texts. country, state: (P,) small codes. table: (2**16,) places by share."""

    names: list[str]
    country: I64
    state: I64
    table: I64

    @property
    def rare(self) -> I64:
        """The codes of the rare forms, which stand at the end."""
        return np.arange(len(self.names) - len(RARE), len(self.names))


def _entries(text: str) -> list[tuple[str, float, list[str]]]:
    entries = []
    for entry in text.split("; "):
        head, parts = entry.split(": ")
        name, weight = head.split()
        entries.append((name, float(weight), parts.split()))
    return entries


def _falling(weight: float, parts: list[str]) -> list[float]:
    """The weight split over parts, each half as large as the one before."""
    shares = [0.5**i for i in range(len(parts))]
    return [weight * share / sum(shares) for share in shares]


def geography() -> Geography:
    """The table of places: US, US>CA>807, GB, GB>H9 and the rare forms."""
    rows: list[tuple[str, str, str, float]] = [("US", "US", "", float(_AMERICANS_WITHOUT_STATE))]
    for state, weight, markets in _entries(_STATES):
        shares = _falling(weight, markets)
        rows += [(f"US>{state}>{m}", "US", f"US>{state}", s) for m, s in zip(markets, shares, strict=True)]
    for country, weight, regions in _entries(_COUNTRIES):
        rows.append((country, country, "", weight * _OTHERS_WITHOUT_REGION))
        shares = _falling(weight * (1 - _OTHERS_WITHOUT_REGION), regions)
        rows += [(f"{country}>{r}", country, f"{country}>{r}", s) for r, s in zip(regions, shares, strict=True)]
    total = sum(row[3] for row in rows)
    rows += [(name, name, "", total * _RARE_SHARE) for name in RARE]
    names, countries, states, weights = zip(*rows, strict=True)
    return Geography(
        names=list(names),
        country=np.unique(np.array(countries), return_inverse=True)[1].astype(np.int64),
        state=np.unique(np.array(states), return_inverse=True)[1].astype(np.int64),
        table=lookup(weights, 1 << TABLE_BITS),
    )
