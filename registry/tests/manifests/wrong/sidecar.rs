//! Wrong Sidecars.

use super::{Case, WHOLE};

const HEAD: &str = "apiVersion: ringway.dev/v1alpha1
kind: Sidecar
metadata: { name: cart-1 }
spec:
  cluster: west
  trustDomain: acme.example
  identity: { directory: pki }
";

/// One process.
pub(super) const SIDECAR: &[Case] = &[
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: Sidecar
metadata: { name: cart-1, namespace: shop }
spec: {}
",
        said: &[
            "3:38 Sidecar: metadata.namespace: a Sidecar stands in no namespace => leave `namespace` out",
            "4:7 Sidecar cart-1: spec.cluster is missing => add `cluster: west`",
            "4:7 Sidecar cart-1: spec.trustDomain is missing => add `trustDomain: acme.example`",
            "4:7 Sidecar cart-1: spec.identity is missing => add `identity: { directory: pki/west-shop-cart }`",
            "4:7 Sidecar cart-1: spec.gateways is missing => add `gateways: [{ unix: state/west/tunnel.sock }]`",
        ],
    },
    Case {
        head: HEAD,
        rest:
            "  gateways: [{ unix: a, address: 'b:1' }, { address: b }, {}, { unix: a.sock }, { unix: a.sock }]
",
        said: &[
            "8:14 Sidecar cart-1: spec.gateways: one of `unix` and `address` belongs here => write `{ unix: state/west/tunnel.sock }` or `{ address: gw.west.example:7443 }`",
            "8:54 Sidecar cart-1: spec.gateways.address: `b` is no `host:port` => write `b:PORT`",
            "8:59 Sidecar cart-1: spec.gateways: one of `unix` and `address` belongs here => write `{ unix: state/west/tunnel.sock }` or `{ address: gw.west.example:7443 }`",
            "8:81 Sidecar cart-1: spec.gateways: unix:a.sock stands here twice => remove one",
        ],
    },
    Case {
        head: HEAD,
        rest: "  gateways: []
  listen: { proxy: 127.0.0.1:7471 }
",
        said: &[
            "5:3 Sidecar cart-1: spec.gateways is empty => name at least one: `gateways: [{ unix: state/west/tunnel.sock }]`",
            "9:11 Sidecar cart-1: spec.listen: `admin` and `proxy` both want port 7471 => give each its own port",
        ],
    },
    Case {
        head: HEAD,
        rest: "  gateways: [{ unix: a.sock }]
  register:
    - { service: cart, ports: { web: 9001 } }
    - { service: shop/cart, ports: { Web: 9001, ops: 0 }, weight: 0 }
    - { service: shop/cart, ports: {} }
    - { service: shop/cart }
    - { service: shop/cart, ports: { web: 9002 } }
    - { service: shop/cart, ports: { web: 9002 } }
",
        said: &[
            "10:18 Sidecar cart-1: spec.register.service: `cart` is no service => write namespace and name, such as `shop/cart`",
            "11:43 Sidecar cart-1: spec.register.ports: `Web` is no name => such as `web`: write 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends (RFC 1123)",
            "11:54 Sidecar cart-1: spec.register.ports.ops: 0 is out of range => write a whole number from 1 to 65535",
            "11:67 Sidecar cart-1: spec.register.weight: 0 is out of range => write a whole number from 1 to 10000",
            "12:36 Sidecar cart-1: spec.register.ports has 0 entries => 1 to 64 are allowed: `ports: { web: 9001 }`",
            "13:7 Sidecar cart-1: spec.register.ports is missing => add `ports: { web: 9001 }`",
            "15:7 Sidecar cart-1: spec.register: two endpoints of shop/cart have the id `127.0.0.1:9002` => give each endpoint its own id",
        ],
    },
];
