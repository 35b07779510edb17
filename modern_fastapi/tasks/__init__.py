"""
Work that outlives its request.

- ``rows``       the statements: submit, claim, finish, retry, cancel, rescue; each one transaction
- ``context``    what a running task function is given, and how it hears that it should stop
- ``kinds``      the table of all task functions by name
- ``mail``, ``records``, ``documents``, ``numbers``   the task functions themselves
- ``runner``     one claimed row from start to end, whoever asks for it
- ``submissions``   how a request hands work over
"""
