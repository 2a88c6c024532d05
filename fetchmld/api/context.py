"""What handlers find on the application and on the request: typed keys, and nothing else.

Owns no behaviour. `Intake` and `Config` hang on the application; who asks and under which trace hang on the request.
"""

from typing import TYPE_CHECKING, Final

from aiohttp import web

from fetchmld.api.connections import Connections
from fetchmld.api.head import Caller, Head
from fetchmld.api.rates import Standing
from fetchmld.config import Config

if TYPE_CHECKING:
    from fetchmld.api.admission import Admission
    from fetchmld.api.experiment_metrics import MetricsReader
    from fetchmld.api.feed import Hub
    from fetchmld.api.intake import Intake
    from fetchmld.api.logins import Logins
    from fetchmld.api.meter import Meter
    from fetchmld.api.pages import Pages
    from fetchmld.api.remotes import Remotes
    from fetchmld.api.short_way import ShortWay
    from fetchmld.api.streams import Streams

HEAD: Final[web.AppKey[Head]] = web.AppKey("head")
CONFIG: Final = web.AppKey("config", Config)
ADMISSION: Final[web.AppKey["Admission"]] = web.AppKey("admission")
INTAKE: Final[web.AppKey["Intake"]] = web.AppKey("intake")
HUB: Final[web.AppKey["Hub"]] = web.AppKey("hub")
STREAMS: Final[web.AppKey["Streams"]] = web.AppKey("streams")
LOGINS: Final[web.AppKey["Logins"]] = web.AppKey("logins")
PAGES: Final[web.AppKey["Pages"]] = web.AppKey("pages")
METRICS: Final[web.AppKey["MetricsReader"]] = web.AppKey("metrics")
REMOTES: Final[web.AppKey["Remotes"]] = web.AppKey("remotes")
SHORT_WAY: Final[web.AppKey["ShortWay"]] = web.AppKey("short_way")
METER: Final[web.AppKey["Meter"]] = web.AppKey("meter")
DOCUMENT: Final = web.AppKey("document", bytes)
CONNECTIONS: Final = web.AppKey("connections", Connections)
UNDER_WAY: Final[web.AppKey[set[str]]] = web.AppKey("under_way")  # requests with an Idempotency-Key

CALLER: Final = web.RequestKey("caller", Caller)
KEY_HASH: Final = web.RequestKey("key_hash", str)
TRACE: Final = web.RequestKey("trace", str)
STANDING: Final = web.RequestKey("standing", Standing)
