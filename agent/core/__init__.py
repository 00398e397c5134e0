"""The core: one node of the group as a pure object.

`Node.step(now, input)` takes one thing that happened and returns, in order, what is to be done (effects) and what
became true (events); `Node.deadline()` says when the next `Timer` is due at the latest. There is no I/O, no clock, no
randomness and no logging in here, so the same object runs in the agent, in the simulator, and in replay.

How the parts share the work:

- `ids`, `settings`, `view`, `messages`: the values that everything is made of.
- `inputs`, `effects`, `events`: the three vocabularies.
- `peers`: who was heard, when, and what they said last; the failure detector.
- `membership`: OPERATIONAL and GATHER; from votes to views. `install` composes a view from the votes, `viewlog` is the
  log of its decisions.
- `record`: the agreed record of one view (owners, hand-overs, standings), changed by decisions only.
- `coordinator`: what the one writer of a view decides next. `placement` (with `flow`) computes who should own what.
- `ownership`: what is on this node's own interfaces, VIP by VIP, and when it is announced.
- `serving`: binds record and ownership together; `beats`: heartbeats; `node`: wires all of it.

A fail-over, step by step: a peer's silence passes the failure timeout (`peers`); the node votes for the lowest living
member and declares what it holds (`Join`); that member, once everyone it hears has voted for it, answers with a view,
the missing decisions, and the placement (`Install`); each member takes what the placement gives it (`Acquire`), and
announces it when the kernel has it (`Announce`). That is one silence, two one-way trips, one netlink call, one frame.

The rules R1 to R14 that comments cite are in docs/protocol.md.
"""
