"""From a model to a `Recording`: the runner that stands in for a layer's forward pass, and the certificate."""
