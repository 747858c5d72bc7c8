"""Rankings side by side: how far they agree, and which one tells the truth."""

from __future__ import annotations

from quantspectrum.agreement.agree import agree, agree_files, labels_of
from quantspectrum.agreement.tables import agreement_markdown, truth_markdown

__all__ = ["agree", "agree_files", "agreement_markdown", "labels_of", "truth_markdown"]
