"""
The original: a back-office job server as a Twisted programmer wrote it.

It needs Twisted and nothing else (for PostgreSQL, psycopg).  It is run by
``twistd -ny legacy_twisted/server.tac``.  Read it in this order:

- C{server}: the tree of services, and the Site;
- C{pages}, C{taskpages}, C{filepages}, C{eventpages}, C{sessionpages}: the
  resources, one class for each route;
- C{web}: what all resources share: requests, errors, JSON; C{fields} checks
  input, C{bodies} and C{multipart} read it while it arrives;
- C{tasks}: the table of durable tasks; C{worker}: the consumer that runs
  them on a pool of threads, and C{runs}: one run of one task; C{engines}:
  other ways to run them;
- C{functions}, C{mail}, C{primes}: what tasks do; C{processes}: the pool for
  what would keep all threads busy;
- C{loops}: what every background loop is; C{rescue}, C{chores}: the others;
- C{database}, C{dialects}, C{notify}, C{presence}, C{requestlog},
  C{settings}: what everything stands on.
"""
