"""Features: what is known of a key at the moment of each of its rows, from one process or from several.

The package is named in the singular, because a package would hide the verb `sp.features` behind its own name.
"""
