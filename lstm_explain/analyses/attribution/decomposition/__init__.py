"""What of an output came from which input, by going through the gates: exact by construction, and with what is left over.

Layer-wise relevance propagation hands the output back through the equations; the cell decomposition takes apart what the cell has added up;
contextual decomposition carries a phrase and everything else side by side through them.
"""
