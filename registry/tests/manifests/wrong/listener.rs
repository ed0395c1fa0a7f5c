//! Wrong Listeners.

use super::{Case, LISTENER_HEAD};

/// Addresses, protocols, where they lead.
pub(super) const LISTENER: &[Case] = &[
    Case {
        head: LISTENER_HEAD,
        rest: "spec: {}\n",
        said: &[
            "4:7 Listener shop/db: spec.address is missing => add `address: 127.0.0.1:5432`",
            "4:7 Listener shop/db: spec.protocol is missing => add `protocol: tcp`",
        ],
    },
    Case {
        head: LISTENER_HEAD,
        rest: "spec: { address: 'localhost', protocol: smtp, service: 'no name', port: 0 }\n",
        said: &[
            "4:18 Listener shop/db: spec.address: `localhost` is no address to listen on => write `127.0.0.1:PORT`",
            "4:41 Listener shop/db: spec.protocol: `smtp` is not known => write one of `http`, `tcp`, `tls`, `detect`, `udp`, `thrift` and `mux`",
            "4:56 Listener shop/db: spec.service: `no name` is no name => such as `no-name`: write 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends (RFC 1123)",
            "4:73 Listener shop/db: spec.port: 0 is out of range => write a whole number from 1 to 65535",
        ],
    },
    Case {
        head: LISTENER_HEAD,
        rest: "spec: { address: '127.0.0.1:1', protocol: tcp }\n",
        said: &[
            "4:7 Listener shop/db: spec.service is missing => add `service: db`: bytes do not say where they are to go",
        ],
    },
    Case {
        head: LISTENER_HEAD,
        rest: "spec: { address: '127.0.0.1:1', protocol: mux, service: cart, http: { fields: 1 } }\n",
        said: &[
            "4:7 Listener shop/db: spec.http: there are no requests in mux => leave `http` out, or write `protocol: http` or `detect`",
            "4:79 Listener shop/db: spec.http.fields: 1 is out of range => write a whole number from 8 to 256",
        ],
    },
    Case {
        head: LISTENER_HEAD,
        rest: "spec: { address: '127.0.0.1:1', protocol: thrift, service: cart, names: { a.b: { service: cart } } }\n",
        said: &[
            "4:73 Listener shop/db: spec.names: there are none in thrift => leave `names` out, or write `protocol: tls` or `detect`",
        ],
    },
    Case {
        head: LISTENER_HEAD,
        rest: "spec: { address: '127.0.0.1:1', protocol: http, service: cart }\n",
        said: &[
            "4:7 Listener shop/db: spec.service: a listener for http leads nowhere by itself => leave `service`, `cluster` and `port` out: each request names its host",
        ],
    },
    Case {
        head: LISTENER_HEAD,
        rest: "spec: { address: 'unix:a', protocol: udp, service: cart }\n",
        said: &[
            "4:7 Listener shop/db: spec.address: there is no UDP on Unix sockets => write an address and a port",
        ],
    },
    Case {
        head: LISTENER_HEAD,
        rest: "spec: { address: '127.0.0.1:1', protocol: udp, service: cart, proxyHeader: { from: [10.0.0.0/8] } }\n",
        said: &[
            "4:7 Listener shop/db: spec.proxyHeader: there is none in udp => leave it out: datagrams have no beginning that it could stand at",
        ],
    },
    Case {
        head: LISTENER_HEAD,
        rest: "spec:\n  address: 127.0.0.1:1\n  protocol: tls\n  names: { 'a b': { service: cart }, A.b: { service: cart }, a.b: { service: cart } }\n  proxyHeader: { from: [10.0.0.0/33] }\n  gateways: ['a b']\n",
        said: &[
            "7:19 Listener shop/db: spec.names: `a b` is no host name => write a DNS name, such as `gw.west.example`",
            "7:67 Listener shop/db: spec.names: `a.b` stands here twice => case makes no difference: remove one",
            "8:25 Listener shop/db: spec.proxyHeader.from: `10.0.0.0/33` is no network => write a number of bits up to 32",
            "9:14 Listener shop/db: spec.gateways: `a b` is no name => such as `a-b`: write 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends (RFC 1123)",
        ],
    },
];
