"""Is this attribution faithful to the model?

What an attribution says is held against what the model does when the steps that it names are replaced (`removal`), when sets of steps
get its baseline (`infidelity`), when the input moves a little (`sensitivity`), and when the weights that it should speak of are drawn
anew (`randomisation`); all of it beside a random attribution and the cheapest method (`claims`).
"""
