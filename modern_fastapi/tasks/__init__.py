"""
Work that outlives its request.

- ``rows``       what is done with rows: submit, claim, finish, retry, cancel, rescue; each one transaction
- ``statements`` those of its statements that run all the time
- ``outbox``     rows on their way to a broker, and what became of them
- ``limits``     how many of a name may start now
- ``together``   several who ask at the same time are served in one transaction
- ``context``    what a running task function is given, and how it hears that it should stop
- ``kinds``      the table of all task functions by name
- ``mail``, ``records``, ``documents``, ``numbers``   the task functions themselves
- ``runner``     one claimed row from start to end, whoever asks for it
- ``submissions``   how a request hands work over
"""
