"""
A Twisted Site on uvicorn's transport or behind ASGI, and everything that listens.

- L{channel}: a Site's C{HTTPChannel} in which only parsing and writing are replaced.
- L{site_protocol}: its home straight on uvicorn's transport; the hot road.
- L{resource_app}: its home behind ASGI; L{websocket_app} the same for websockets. Both stand
  on L{virtual}, and L{spoken} reads what a connection's new owner says by itself.
- L{asgi_road}: the road to the ASGI application; L{asgi_cycle}: one request there, and how its
  answer is framed; L{asgi_head}: how the lines of its head are written.
- L{ordered}, L{parsing}, L{speaking}, L{stock}, L{cycle}, L{patience}, L{asks}, L{watching}: what
  L{site_protocol} is made of.
- L{sessions}: the visitor whom both stacks know; copies for shadows. L{observed}: what an
  observed Request carries.
- L{transport}, L{facade}: asyncio's transports with Twisted's face, and the reverse.
- L{front}: how a connection finds its Site and who decides. L{proxies}: whom it believes about
  who asks.
- L{load}: what C{--legacy} and C{--modern} name.
- L{adopt}: the Sites that the user's code listens with.
- L{listen}: the listeners; binding, serving, draining. L{accepting}: how connections come.
- L{access}: one access log for both sides.
- L{lifespan}: one ASGI application's start-up and shutdown.
- L{quicken}: what of twisted.web is replaced by something faster meanwhile; L{quick_request}: its Request's methods;
  L{quick_file}: its files' producers.
"""
