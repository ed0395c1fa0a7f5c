//! Wrong TrafficPolicies, and names that mean nothing.

use super::{Case, POLICY_HEAD, WHOLE};

/// Placement, balance, retry, timeouts.
pub(super) const POLICY: &[Case] = &[
    Case {
        head: POLICY_HEAD,
        rest: "spec: { timeout: {} }
",
        said: &["4:7 TrafficPolicy shop/cart: spec.service is missing => add `service: cart`"],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  timeout: { head: 2 sec, idle: 60, total: 1.5s }
",
        said: &[
            "6:20 TrafficPolicy shop/cart: spec.timeout.head: `2 sec` is no duration => write `2s`",
            "6:33 TrafficPolicy shop/cart: spec.timeout.idle: `60` has no unit => write `60s`",
            "6:44 TrafficPolicy shop/cart: spec.timeout.total: `1.5s` is no duration => write `1500ms`",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  timeout: { head: 0s, idle: 25h, total: soon }
",
        said: &[
            "6:20 TrafficPolicy shop/cart: spec.timeout.head: `0s` is out of range => write a duration from 1ms to 24h",
            "6:30 TrafficPolicy shop/cart: spec.timeout.idle: `25h` is out of range => write a duration from 1ms to 24h",
            "6:42 TrafficPolicy shop/cart: spec.timeout.total: `soon` is no duration => a duration is a whole number and one of ms, s, m, h, such as `500ms` or `2s`",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  retry: { attempts: 11, budget: 0.2, minPerSecond: -1 }
",
        said: &[
            "6:22 TrafficPolicy shop/cart: spec.retry.attempts: 11 is out of range => write a whole number from 1 to 10",
            "6:34 TrafficPolicy shop/cart: spec.retry.budget: `0.2` is no percentage => write `20%`",
            "6:53 TrafficPolicy shop/cart: spec.retry.minPerSecond: -1 is out of range => write a whole number from 0 to 100000",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  retry: { budget: 101%, on: [conect, 5xx, 404], methods: [post, 'a b'] }
",
        said: &[
            "6:20 TrafficPolicy shop/cart: spec.retry.budget: `101%` is out of range => write a percentage from `0%` to `100%`",
            "6:31 TrafficPolicy shop/cart: spec.retry.on: `conect` is not known => did you mean `connect`?",
            r#"6:39 TrafficPolicy shop/cart: spec.retry.on: `5xx` is not known => list the codes, such as "502", "503", "504""#,
            r#"6:44 TrafficPolicy shop/cart: spec.retry.on: `404` is no status that can be tried again => write one from "500" to "599": other answers are the service's last word"#,
            "6:60 warning: TrafficPolicy shop/cart: spec.retry.methods: `post` is a method of Thrift, for those of HTTP are upper case => write `POST` if that is meant",
            "6:66 TrafficPolicy shop/cart: spec.retry.methods: `a b` is no method => such as `POST`, or `getUser` of Thrift",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  limits: { requests: 1024 }
  balance: { algorithm: aperture }
",
        said: &[
            "6:11 TrafficPolicy shop/cart: spec.limits is not available yet => leave it out for now",
            "7:25 TrafficPolicy shop/cart: spec.balance.algorithm: `aperture` is not available yet => available now: `p2c-ewma`, `round-robin` and `ring`",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  balance: { algorithm: roundrobin }
",
        said: &[
            "6:25 TrafficPolicy shop/cart: spec.balance.algorithm: `roundrobin` is not known => did you mean `round-robin`?",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  placement: { mode: weighted, generation: 0, seed: -1, onOwnerUnavailable: retry }
",
        said: &[
            "6:22 TrafficPolicy shop/cart: spec.placement.mode: `weighted` is not available yet => available now: `local-first` and `sharded`",
            "6:44 TrafficPolicy shop/cart: spec.placement.generation: 0 is out of range => write a whole number of at least 1",
            "6:53 TrafficPolicy shop/cart: spec.placement.seed: -1 is out of range => write a whole number of at least 0",
            "6:77 TrafficPolicy shop/cart: spec.placement.onOwnerUnavailable: `retry` is not known => write one of `next` and `fail`",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  placement:
    mode: sharded
    tiers: [[local]]
",
        said: &[
            "7:11 warning: TrafficPolicy shop/cart: spec.placement: `sharded` without `hash` finds no key: every request is placed local-first => add `hash: [{ header: x-user }]`, or choose `mode: local-first`",
            "8:12 TrafficPolicy shop/cart: spec.placement.tiers have no meaning with `mode: sharded` => leave `tiers` out, or choose `mode: local-first`",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  placement:
    members: [{ cluster: west, region: us, weight: 10001 }, { cluster: east }]
    tiers: []
",
        said: &[
            "7:52 TrafficPolicy shop/cart: spec.placement.members.weight: 10001 is out of range => write a whole number from 0 to 10000",
            "7:61 TrafficPolicy shop/cart: spec.placement.members.region is missing => add `region: us-east`",
            "8:12 TrafficPolicy shop/cart: spec.placement.tiers: a list without tiers lets no traffic through => leave `tiers` out for `[[local], [same-region], [any]]`",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  placement:
    members: [{ cluster: west, region: us }, { cluster: west, region: us }]
    tiers: [[loacl], []]
",
        said: &[
            "7:57 TrafficPolicy shop/cart: spec.placement.members: `west` is listed twice => list each cluster once",
            "8:22 TrafficPolicy shop/cart: spec.placement.tiers: this tier has 0 entries => write from 1 to 64, such as `[local]`",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  placement:
    members: [{ cluster: west, region: us, weight: 0 }]
",
        said: &[
            "7:14 TrafficPolicy shop/cart: spec.placement.members: no member has any weight: nobody could be placed => list the clusters that serve, with a weight such as 100, or leave `members` out",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  placement:
    members: [{ cluster: west, region: us }]
    tiers: [[local], [wset], []]
",
        said: &[
            "8:23 TrafficPolicy shop/cart: spec.placement.tiers: `wset` is neither a member nor one of the words => did you mean `west`?",
            "8:30 TrafficPolicy shop/cart: spec.placement.tiers: this tier has 0 entries => write from 1 to 64, such as `[local]`",
        ],
    },
    Case {
        head: POLICY_HEAD,
        rest: "spec:
  service: cart
  placement:
    hash:
      - { header: x user }
      - { header: x-user, query: id }
      - { cookie: session }
      - { query: 'a&b' }
      - { sourceIp: }
",
        said: &[
            "8:19 TrafficPolicy shop/cart: spec.placement.hash: `x user` is no name of a header field => such as `x-user` (RFC 9110, section 5.6.2)",
            "9:9 TrafficPolicy shop/cart: spec.placement.hash: an entry names exactly one source of the key => write one of `{ header: x-user }`, `{ query: id }`, `{ sourceIp: {} }`, `{ serverName: {} }`, `{ proxyTlv: 224 }`, each an entry of its own",
            "10:19 TrafficPolicy shop/cart: spec.placement.hash.cookie is not available yet => leave it out for now",
            "11:18 TrafficPolicy shop/cart: spec.placement.hash: `a&b` is no name of a query parameter => write it as it stands in the URL, percent-encoded, without `&`, `=`, `#`",
            "12:9 TrafficPolicy shop/cart: spec.placement.hash: an entry names exactly one source of the key => write one of `{ header: x-user }`, `{ query: id }`, `{ sourceIp: {} }`, `{ serverName: {} }`, `{ proxyTlv: 224 }`, each an entry of its own",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: a }
spec: { service: cart }
---
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: b }
spec: { service: cart }
",
        said: &[
            "4:18 warning: TrafficPolicy default/a: spec.service: no MeshService default/cart is declared, and no Link imports one => until one is, this policy has no effect",
            "9:18 TrafficPolicy default/b: spec.service: a second policy for default/cart; the first stands at m.yaml:3:19 => join the two: a service has one TrafficPolicy",
            "9:18 warning: TrafficPolicy default/b: spec.service: no MeshService default/cart is declared, and no Link imports one => until one is, this policy has no effect",
        ],
    },
];

/// What is not there (yet).
pub(super) const REFERENCES: &[Case] = &[
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec: { service: cart }
",
        said: &[
            "4:18 warning: TrafficPolicy shop/cart: spec.service: no MeshService shop/cart is declared, and no Link imports one => until one is, this policy has no effect",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec: { service: crat }
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
spec: { ports: [{ name: web, port: 80, protocol: http }] }
",
        said: &[
            "4:18 warning: TrafficPolicy shop/cart: spec.service: no MeshService shop/crat is declared, and no Link imports one => did you mean `cart`?",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
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
metadata: { name: east }
spec: {}
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
spec: { ports: [{ name: web, port: 80, protocol: http }], export: { to: [esat, west] } }
---
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec: { service: cart, placement: { members: [{ cluster: north, region: eu }], tiers: [[north]] } }
",
        said: &[
            "19:74 warning: MeshService shop/cart: spec.export.to: no Link leads to the cluster `esat` => did you mean `east`?",
            "24:58 warning: TrafficPolicy shop/cart: spec.placement.members: no Link leads to the cluster `north` => until a Link leads there, it gets nothing",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
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
metadata: { name: east }
spec: {}
---
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec: { service: imported, placement: { tiers: [[south]] } }
",
        said: &[
            "19:50 warning: TrafficPolicy shop/cart: spec.placement.tiers: no Link leads to the cluster `south` => until a Link leads there, it gets nothing",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec: { service: cart }
---
kind: MeshServce
",
        said: &["6:7 kind: `MeshServce` is not known => did you mean `MeshService`?"],
    },
];
