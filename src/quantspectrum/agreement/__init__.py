"""Rankings side by side: how far they agree, and which one tells the truth."""

from __future__ import annotations

from quantspectrum.agreement.agree import agree, agree_files, labels_of

__all__ = ["agree", "agree_files", "labels_of"]
