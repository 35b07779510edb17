"""
The original: a back-office job server as a Twisted programmer wrote it.

It needs Twisted and nothing else; ``twistd -ny legacy_twisted/server.tac``
runs it.  Read it in this order:

- C{server}: the tree of services, and the Site;
- C{pages}, C{taskpages}, C{filepages}, C{eventpages}, C{sessionpages}: the
  resources, one class for each route;
- C{web}: what all resources share: requests, errors, JSON; C{fields} checks
  input, C{bodies} and C{multipart} read it while it arrives;
- C{tasks}: the table of durable tasks; C{worker}: the consumer that runs
  them on a pool of threads; C{functions}, C{mail}, C{primes}: what they do;
- C{loops}, C{rescue}, C{chores}: the background loops;
- C{database}, C{settings}: what everything stands on.
"""
