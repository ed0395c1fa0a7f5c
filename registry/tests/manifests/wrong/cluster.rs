//! Wrong Gateways and Links.

use super::{Case, GATEWAY_HEAD, LINK_HEAD, WHOLE};

/// One process.
pub(super) const GATEWAY: &[Case] = &[
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: { name: gw-1, namespace: shop }
spec: {}
",
        said: &[
            "3:36 Gateway: metadata.namespace: a Gateway stands in no namespace => leave `namespace` out",
            "4:7 Gateway gw-1: spec.cluster is missing => add `cluster: west`",
            "4:7 Gateway gw-1: spec.region is missing => add `region: us-west`",
            "4:7 Gateway gw-1: spec.trustDomain is missing => add `trustDomain: acme.example`",
            "4:7 Gateway gw-1: spec.identity is missing => add `identity: { directory: pki/west }`",
            "4:7 Gateway gw-1: spec.state is missing => add `state: { directory: state/west }`",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
  listen: { tunnel: ':8443', http: localhost:8480, admin: 8490, adminHosts: ['gw.example:8490', '*.example'] }
",
        said: &[
            "10:21 Gateway gw-1: spec.listen.tunnel: `:8443` is no address to listen on => write `0.0.0.0:8443`",
            "10:36 Gateway gw-1: spec.listen.http: `localhost:8480` is no address to listen on => write `127.0.0.1:8480`",
            "10:59 Gateway gw-1: spec.listen.admin: `8490` is no address to listen on => write `127.0.0.1:8490`",
            "10:78 Gateway gw-1: spec.listen.adminHosts: `gw.example:8490` is no host name => write `gw.example`: any port is allowed",
            "10:97 Gateway gw-1: spec.listen.adminHosts: `*.example` is no host name => write a DNS name, such as `gw.west.example`",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
  listen: { tunnel: 0.0.0.0:7480 }
",
        said: &[
            "10:11 Gateway gw-1: spec.listen: `http` and `tunnel` both want port 7480 => give each its own port",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
  registry: { embedded: {}, etcd: { endpoints: [http://127.0.0.1:2379] } }
",
        said: &[
            "10:13 Gateway gw-1: spec.registry: `embedded` and `etcd` stand here both => keep one of the two",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
  registry:
    etcd:
      endpoints: [etcd:2379, ftp://etcd:21, 'http://etcd', 'http://etcd:2379/v3']
      prefix: west/
      tls: {}
      user: ringway
",
        said: &[
            "12:7 Gateway gw-1: spec.registry.etcd: `user` and `passwordFile` go together => write both, or none if the etcd has no users",
            "12:19 Gateway gw-1: spec.registry.etcd.endpoints: `etcd:2379` is no endpoint => such as `http://127.0.0.1:2379`",
            "12:30 Gateway gw-1: spec.registry.etcd.endpoints: `ftp://etcd:21` is no endpoint => such as `http://127.0.0.1:2379`",
            "12:45 Gateway gw-1: spec.registry.etcd.endpoints: `etcd` is no `host:port` => write `etcd:PORT`",
            "12:60 Gateway gw-1: spec.registry.etcd.endpoints: `etcd:2379/v3` is no `host:port` => `2379/v3` is no port: write one from 1 to 65535",
            "13:15 Gateway gw-1: spec.registry.etcd.prefix: `west/` is no prefix of keys => such as `/west`: letters, digits, `-`, `_`, `.` and `/`, which it begins with and does not end with",
            "14:12 Gateway gw-1: spec.registry.etcd.tls.directory is missing => add `tls: { directory: pki/etcd }`",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
  registry: { etcd: { endpoints: [http://etcd-1:2379, http://etcd-1:2379/], user: '', passwordFile: '' } }
",
        said: &[
            "10:55 Gateway gw-1: spec.registry.etcd.endpoints: http://etcd-1:2379 stands here twice => remove one",
            "10:83 Gateway gw-1: spec.registry.etcd.user: this is no name of a user => write 1 to 255 bytes on one line",
            "10:101 Gateway gw-1: spec.registry.etcd.passwordFile: this is no path => such as `passwordFile: etcd-password`",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
  registry: { etcd: { endpoints: [http://etcd-1:2379, https://etcd-2:2379] } }
",
        said: &[
            "10:35 Gateway gw-1: spec.registry.etcd: `https` needs a certificate to trust => add `tls: { directory: pki/etcd }`, which holds `ca.crt`",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
  registry: { etcd: { endpoints: [http://etcd-1:2379], tls: { directory: pki/etcd } } }
",
        said: &[
            "10:35 Gateway gw-1: spec.registry.etcd: `tls` and an endpoint without it => write `https://` before every endpoint",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
  registry: { etcd: { endpoints: [] } }
",
        said: &[
            "10:21 Gateway gw-1: spec.registry.etcd.endpoints is empty => name at least one: `endpoints: [http://127.0.0.1:2379]`",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
  domain: Mesh_
  advertise: [gw.west.example, 0]
",
        said: &[
            "10:11 Gateway gw-1: spec.domain: `Mesh_` is no domain => write lower-case labels joined by dots, such as `mesh`",
            "11:15 Gateway gw-1: spec.advertise: `gw.west.example` is no `host:port` => write `gw.west.example:PORT`",
            "11:32 Gateway gw-1: spec.advertise: `0` is no `host:port` => such as `gw.east.example:7443`",
        ],
    },
    Case {
        head: GATEWAY_HEAD,
        rest: "spec:
  cluster: any
  region: us west
  trustDomain: spiffe://Acme.example/
  identity: {}
  state: { directory: '' }
",
        said: &[
            "5:12 Gateway gw-1: spec.cluster: no cluster can be named `any` => choose another name: `local`, `same-region` and `any` are the words of `placement.tiers`",
            "6:11 Gateway gw-1: spec.region: `us west` is no name of a region or zone => write 1 to 63 letters, digits, `-`, `_`, `.`",
            "7:16 Gateway gw-1: spec.trustDomain: `spiffe://Acme.example/` is no trust domain => write `acme.example`",
            "8:13 Gateway gw-1: spec.identity.directory is missing => add `identity: { directory: pki/west }`",
            "9:23 Gateway gw-1: spec.state.directory is no path => such as `state: { directory: state/west }`",
        ],
    },
];

/// The relation to a peer.
pub(super) const LINK: &[Case] = &[
    Case { head: LINK_HEAD, rest: "spec: { addresses: [east, 'http://gw.east.example:7443/', '::1', gw:99999, gw:0, 1.2.3:4, '[gw]:1'] }
", said: &[
        "4:21 Link default/east: spec.addresses: `east` is no `host:port` => write `east:PORT`",
        "4:27 Link default/east: spec.addresses: `http://gw.east.example:7443/` is no `host:port` => write `gw.east.example:7443`, without a scheme",
        r#"4:59 Link default/east: spec.addresses: `::1` is no `host:port` => write `"[::1]:PORT"`, the address in brackets"#,
        "4:66 Link default/east: spec.addresses: `gw:99999` is no `host:port` => `99999` is no port: write one from 1 to 65535",
        "4:76 Link default/east: spec.addresses: `gw:0` is no `host:port` => `0` is no port: write one from 1 to 65535",
        "4:82 Link default/east: spec.addresses: `1.2.3:4` is no `host:port` => such as `gw.east.example:7443`",
        "4:91 Link default/east: spec.addresses: `[gw]:1` is no `host:port` => such as `gw.east.example:7443`",
    ] },
    Case { head: LINK_HEAD, rest: "spec: { trustDomain: Acme }
", said: &[
        "4:22 Link default/east: spec.trustDomain: `Acme` is no trust domain => write `acme`",
    ] },
    Case { head: LINK_HEAD, rest: "spec: { import: [{ union: true }, { namespace: shop }] }
", said: &[
        "4:35 warning: Link default/east: spec.import: this rule is never reached => the first rule that fits wins: put the general rule last",
    ] },
    Case { head: LINK_HEAD, rest: "spec: { import: [{ union: true, placement: none }] }
", said: &[
        "4:44 Link default/east: spec.import.placement: `none` is not known => write one of `accept` and `ignore`",
    ] },
    Case { head: LINK_HEAD, rest: "spec:
  allow: { apply: [{}, { namespace: Shop }, { namespace: shop, kinds: [] }, { namespace: shop, kinds: ['*'] }] }
", said: &[
        "5:20 Link default/east: spec.allow.apply.namespace is missing => add `namespace: shop`",
        "5:37 Link default/east: spec.allow.apply.namespace: `Shop` is no name => such as `shop`: write 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends (RFC 1123)",
        "5:71 Link default/east: spec.allow.apply.kinds is empty => leave the rule out to grant nothing",
        "5:104 Link default/east: spec.allow.apply.kinds: kinds are named one by one => leave `kinds` out for MeshService and TrafficPolicy; a Link must be named, for it grants, and a Listener, for it opens ports",
    ] },
    Case { head: LINK_HEAD, rest: "spec:
  allow: { apply: [{ namespace: '*', kinds: [Gateway, Service] }] }
", said: &[
        "5:46 Link default/east: spec.allow.apply.kinds: a Gateway is a process, and only ever a file => leave it out",
        "5:55 Link default/east: spec.allow.apply.kinds: there is no kind `Service` that can be applied => did you mean `MeshService`?",
    ] },
    Case { head: LINK_HEAD, rest: "spec: { allow: {} }
", said: &[
        "4:16 Link default/east: spec.allow.apply is missing => add `apply: [{ namespace: shop }]`",
    ] },
    Case { head: WHOLE, rest: "apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: local }
spec: { addresses: [east] }
", said: &[
        "3:19 Link default/local: metadata.name: no cluster can be named `local` => choose another name: `local`, `same-region` and `any` are the words of `placement.tiers`",
        "4:21 Link default/local: spec.addresses: `east` is no `host:port` => write `east:PORT`",
    ] },
    Case { head: WHOLE, rest: "apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }
spec: {}
---
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east, namespace: shop }
spec: {}
", said: &[
        "8:19 Link shop/east: a second Link to this cluster; the first stands at m.yaml:3:19 => keep one of the two",
    ] },
    Case { head: WHOLE, rest: "apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: { name: gw-1 }
spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
---
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: west }
spec: {}
", said: &[
        "13:19 Link default/west: metadata.name: `west` is our own cluster => a Link is named after the peer it leads to",
    ] },
];
