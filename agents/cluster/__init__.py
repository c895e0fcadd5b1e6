"""A run on a Ray cluster: engines and trainers in processes of their own, on one machine or many (extra ``ray``).

::

    evaluation, or the first trainer             source.py   plays a request on all engines (`ClusterSource`)
      |- queue.py    which engine plays which groups, each exactly once
      |- fleet.py    keeps a number of engines: one that is lost is replaced
      |- weights.py  weights on their way to the engines
      `- actor.py    an engine, its environments and a collector, in a process of their own (`RolloutActor`)
             `- envs.py   environments in further processes (`ActorPool`)

    trainers.py      several training processes, started and restarted together

Only this package imports ray, and only once a cluster is asked for.
"""
