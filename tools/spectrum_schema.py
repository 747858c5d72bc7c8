"""Print the JSON schema of a spectrum, as its record has it.

    python tools/spectrum_schema.py > docs/spectrum.schema.json

A test compares the two, so that the documented schema cannot drift.
"""

from __future__ import annotations

import json

from quantspectrum.artifacts import Spectrum


def main() -> None:
    schema = Spectrum.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    print(json.dumps(schema, indent=1))


if __name__ == "__main__":
    main()
