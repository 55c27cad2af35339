"""Who said it: keys, certificates, announcements, and the envelopes that carry calls.

Pure: clocks and entropy are handed in.

`keys` Ed25519 and X25519 · `document` signed bytes · `certificate` what the root granted · `announcement` what a node
says of itself · `budget` and `trust` how much is verified, and what held · `peers` whose keys we know · `replay` what
was seen · `epochs` our own short-lived keys · `herald` what we say of ourselves · `envelope` the bytes on the bus ·
`refusal` why something was not believed · `keyring` all of it behind one door.
"""
