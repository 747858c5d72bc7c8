"""A few fixed samples on which a reloaded checkpoint is compared with the simulated model."""

from __future__ import annotations

from quantspectrum.data.pictures import gradient
from quantspectrum.data.sample import Sample

__all__ = ["probe_samples"]


def probe_samples(image: bool) -> list[Sample]:
    """Return four text-only samples and, with ``image``, two with a picture; no file is read.

    Half of the texts keep to the words of the embedded model, for which others are unknown.
    """
    samples = [
        Sample(id="probe:text:0", text="a small red circle is at the top left ."),
        Sample(
            id="probe:text:1",
            text="Rivers carry 20 billion tonnes of sediment to the sea every year, most of it "
            "from a handful of young mountain ranges.",
        ),
        Sample(
            id="probe:text:2",
            prompt="how many objects are there in the scene ?",
            text="three",
        ),
        Sample(
            id="probe:text:3",
            prompt="Name the first three prime numbers.",
            text="The first three prime numbers are 2, 3 and 5.",
        ),
    ]
    if image:
        samples += [
            Sample(
                id="probe:image:0",
                prompt="describe the image .",
                text="a big green square at the middle center .",
                image=gradient(84, 56),
            ),
            Sample(
                id="probe:image:1",
                prompt="Describe this image.",
                text="A smooth gradient of red, green and blue.",
                image=gradient(56, 112),
            ),
        ]
    return samples
