"""
`twistd bgserver`: the harness as a twistd command.

- L{options} reads the command line and decides which policy applies;
- L{service} hands it to C{bridge.compose} and carries the exit status out;
- C{twisted/plugins/bgserver.py} is the dropin through which twistd finds both: it is
  installed into Twisted's own plugin folder;
- C{example.toml} is the policy of the example application, used where there is
  neither a policy nor an application.
"""
