"""Pfeiffer adapters (Pfeiffer et al., EACL 2021, arXiv 2005.00247), behind feed-forward networks.

They differ from Houlsby's in their places, in what they read and in their activation, a setting.
"""

from __future__ import annotations

from dora.methods.houlsby import Houlsby


class Pfeiffer(Houlsby):
    """Trains adapters behind the feed-forward networks, which read LayerNorm's output.

    The same LayerNorm is applied again, to the sum with the adapter's output.
    """

    title = "Pfeiffer adapters"
    recordable = True
    paper = "Pfeiffer et al., AdapterFusion, EACL 2021, arXiv 2005.00247"
    note = Houlsby.note.replace("4 x 8", "8 x 8")

    _behind = ("ffn2",)
    # Half as many adapters of twice the bottleneck: 16, 32 and 64 for ranks of 2, 4 and 8.
    _units = 8
    _norm_first = True
