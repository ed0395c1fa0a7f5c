//! Wrong MeshServices.

use super::{Case, SERVICE_HEAD, WHOLE};

/// Ports, endpoints, grants.
pub(super) const SERVICE: &[Case] = &[
    Case {
        head: SERVICE_HEAD,
        rest: "spec: {}
",
        said: &[
            "4:7 MeshService shop/cart: spec.ports is missing => add `ports: [{ name: web, port: 80, protocol: http }]`",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  healthCheck: { interval: 2s }
  ports: []
",
        said: &[
            "5:16 MeshService shop/cart: spec.healthCheck does not say what is asked => write `http: { path: /healthz }`, or `tcp: {}`",
            "6:10 MeshService shop/cart: spec.ports: a service has at least one port => write `ports: [{ name: web, port: 80, protocol: http }]`",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }]
  healthCheck:
    http: { path: 'http://a/healthz', expectedStatus: 20 }
    tcp: {}
    interval: 50ms
    timeout: 1
    rise: 0
    fall: 101
",
        said: &[
            "7:5 MeshService shop/cart: spec.healthCheck has both `http` and `tcp` => write `http: { path: /healthz }`, or `tcp: {}`",
            "9:15 MeshService shop/cart: spec.healthCheck.interval: `50ms` is out of range => write an interval from 100ms to 1h",
            "10:14 MeshService shop/cart: spec.healthCheck.timeout: `1` has no unit => write `1s`",
            "11:11 MeshService shop/cart: spec.healthCheck.rise: 0 is out of range => write a whole number from 1 to 100",
            "12:11 MeshService shop/cart: spec.healthCheck.fall: 101 is out of range => write a whole number from 1 to 100",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }]
  healthCheck: { http: { path: 'http://a:9/healthz', expectedStatus: 20 }, interval: 2h }
",
        said: &[
            "6:32 MeshService shop/cart: spec.healthCheck.http.path: `http://a:9/healthz` is no path => write `/healthz`: host and port are the endpoint's",
            "6:70 MeshService shop/cart: spec.healthCheck.http.expectedStatus: 20 is out of range => write a whole number from 100 to 599",
            "6:86 MeshService shop/cart: spec.healthCheck.interval: `2h` is out of range => write an interval from 100ms to 1h",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }]
  healthCheck: { http: {}, interval: 1s, timeout: 2s }
",
        said: &[
            "6:24 MeshService shop/cart: spec.healthCheck.http.path is missing => add `path: /healthz`",
            "6:51 MeshService shop/cart: spec.healthCheck.timeout: 2s is longer than the interval => write at most 1s: checks do not overlap",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: r#"spec:
  ports:
    - { name: web, port: 80, protocol: http }
    - { name: web, port: 81, protocol: http }
    - { name: api, port: 80, protocol: http }
    - { name: rpc, port: 70000, protocol: smtp }
    - { name: raw, port: "8080", protocol: htpp }
    - { name: Web, port: 1.5 }
"#,
        said: &[
            "7:7 MeshService shop/cart: spec.ports: two ports are named `web` => give each port its own name",
            "8:7 MeshService shop/cart: spec.ports: two ports have the number 80 => callers choose a port by its number: give each its own",
            "9:26 MeshService shop/cart: spec.ports.port: 70000 is out of range => write a whole number from 1 to 65535",
            "9:43 MeshService shop/cart: spec.ports.protocol: `smtp` is not known => write one of `http`, `grpc`, `tcp`, `tls`, `udp`, `thrift` and `mux`",
            "10:26 MeshService shop/cart: spec.ports.port: `8080` is no whole number => write 8080 without quotes",
            "10:44 MeshService shop/cart: spec.ports.protocol: `htpp` is not known => did you mean `http`?",
            "11:7 MeshService shop/cart: spec.ports.protocol is missing => add `protocol: http`",
            "11:15 MeshService shop/cart: spec.ports.name: `Web` is no name => such as `web`: write 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends (RFC 1123)",
            "11:26 MeshService shop/cart: spec.ports.port: `1.5` is no whole number => write a whole number from 1 to 65535",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }]
  endpoints:
    - { id: a, weight: 0, capacity: many, zone: a/b }
    - { host: '127.0.0.1:9001' }
    - { host: '[::1]' }
    - { host: 127.0.0.1, id: 'a b' }
    - { host: 127.0.0.1, id: b }
    - { host: 127.0.0.2, id: b }
",
        said: &[
            "7:7 MeshService shop/cart: spec.endpoints.host is missing => add `host: 127.0.0.1`",
            "7:24 MeshService shop/cart: spec.endpoints.weight: 0 is out of range => write a whole number from 1 to 10000",
            "7:37 MeshService shop/cart: spec.endpoints.capacity: `many` is no whole number => write a whole number from 1 to 1000000",
            "7:49 MeshService shop/cart: spec.endpoints.zone: `a/b` is no name of a region or zone => write 1 to 63 letters, digits, `-`, `_`, `.`",
            "8:15 MeshService shop/cart: spec.endpoints.host: `127.0.0.1:9001` is no host => write the host alone; ports have a field of their own",
            r#"9:15 MeshService shop/cart: spec.endpoints.host: `[::1]` is no host => write `"::1"`, without brackets"#,
            "10:30 MeshService shop/cart: spec.endpoints.id: `a b` is no endpoint id => write 1 to 253 visible ASCII characters, without spaces",
            "12:7 MeshService shop/cart: spec.endpoints: two endpoints have the id `b` => give each endpoint its own id",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }, { name: admin, port: 81, protocol: http }]
  endpoints:
    - { host: 127.0.0.1 }
    - { host: 127.0.0.1, ports: { wbe: 9001, admin: 9002 } }
    - { host: 127.0.0.1, ports: { web: 9001 } }
    - { host: 127.0.0.1, ports: { web: 0, admin: 9002 } }
",
        said: &[
            "7:7 MeshService shop/cart: spec.endpoints.ports is missing => add `ports: { web: 9001, admin: 9001 }`",
            "8:40 MeshService shop/cart: spec.endpoints.ports: the service has no port `wbe` => did you mean `web`?",
            "9:33 MeshService shop/cart: spec.endpoints.ports: the number for the service's port `admin` is missing => write `ports: { web: 9001, admin: 9001 }`",
            "10:40 MeshService shop/cart: spec.endpoints.ports.web: 0 is out of range => write a whole number from 1 to 65535",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }]
  export: {}
",
        said: &[r#"6:11 MeshService shop/cart: spec.export.to is missing => add `to: ["*"]`"#],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }]
  export: { to: [East] }
",
        said: &[
            "6:18 MeshService shop/cart: spec.export.to: `East` is no name => such as `east`: write 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends (RFC 1123)",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }]
  export: { to: ['*', east] }
",
        said: &[
            r#"6:17 warning: MeshService shop/cart: spec.export.to: `*` grants to every cluster, the other names change nothing => keep `"*"`, or the names"#,
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart }
spec: { ports: [{ name: web, port: 80, protocol: http }] }
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: default }
spec: { ports: [{ name: web, port: 80, protocol: http }] }
",
        said: &[
            "8:19 MeshService default/cart: declared twice; the first stands at m.yaml:3:19 => rename or remove one of the two",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }]
  registration: { hosts: [10.0.0.5/24, 127.0.0.1, 'cart:80'] }
",
        said: &[
            "6:27 MeshService shop/cart: spec.registration.hosts: `10.0.0.5/24` has bits behind its network => write `10.0.0.0/24`, or the address alone",
            "6:40 MeshService shop/cart: spec.registration.hosts: `127.0.0.1`: loopback addresses are never registered over the network => workloads on the gateway's own host register over its Unix socket, whatever is allowed here",
            "6:51 MeshService shop/cart: spec.registration.hosts: `cart:80` is no host => write a network such as `10.0.0.0/16`, an address, a DNS name, or `\"*.pods.example\"` for all under it",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: 80, protocol: http }]
  registration: {}
",
        said: &[
            "6:17 MeshService shop/cart: spec.registration.hosts is missing => add `hosts: [10.0.0.0/16]`",
        ],
    },
];
