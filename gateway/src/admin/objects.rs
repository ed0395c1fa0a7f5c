//! Applied objects: put, taken away and shown.

mod placements;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::{NAME_BYTES_MAX, QUOTED_BYTES_MAX};
use proto::store;
use proto::text::{clean, is_harmful};
use registry::manifest::{Severity, Source, with_revision};
use registry::model::{Catalog, ConditionKind, Gateway, Kind, ObjectName};
use registry::pure::sources::{AppliedObjects, Sources};
use registry::store::Store;
use registry::tasks::applied;
use registry::tasks::apply::{self, Author, Outcome, Plan, Refused, There};
use registry::tasks::status;
use tokio::task::spawn_blocking;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::pool::{NotDone, Pool};
use super::remote;
use crate::base::clock::unix_ms;
use crate::control::sync::{self, Knowledge, SaidOf, in_use};
use crate::proxy::worker::Shared;
use crate::telemetry::audit;
use crate::telemetry::metrics::InProgressGuard;
use admin_api::rpc::{
    self, Answer, ApplyRequest, Ask, AskRequest, Change, Changed, Condition, DeleteRequest, Found,
    GetRequest, Name, Object, Placement, Problem, Refusal, answer, ask,
};
use registry::base::causes::chain;

/// How long one call may take: hundreds of transactions of a slow registry, and then the operator looks again.
const CALL_WAIT: Duration = Duration::from_secs(30);

/// How long what is shown waits for the word of the elected gateway.
const STATUS_WAIT: Duration = Duration::from_secs(1);

/// The service, and what a change needs to know.
#[derive(Clone, Debug)]
pub struct Objects<S> {
    /// The process as its manifest declares it.
    pub gateway: Arc<Gateway>,
    /// The data plane.
    pub shared: Arc<Shared>,
    /// What is declared.
    pub knowledge: Arc<Knowledge>,
    /// Where what is applied is kept.
    pub store: S,
    /// Where what linked clusters ask is worked on.
    pub pool: Pool,
}

/// That a linked cluster's question is under way: whatever is done for it holds this until it is over, whether anybody
/// waits for that or not.
pub type Ticket = Arc<[InProgressGuard; 2]>;

#[tonic::async_trait]
impl<S: Store> rpc::Objects for Objects<S> {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<Changed>, Status> {
        let author = author(&request);
        self.put(request.into_inner(), &author, None).await.map(Response::new)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<Changed>, Status> {
        let author = author(&request);
        self.take_away(request.into_inner(), &author, None).await.map(Response::new)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Found>, Status> {
        let author = author(&request);
        self.show(request.into_inner(), &author).await.map(Response::new)
    }

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<Answer>, Status> {
        let author = author(&request);
        let AskRequest { cluster, ask } = request.into_inner();
        let ask = Ask { operator: author.by.clone(), ..ask.unwrap_or_default() };
        if cluster == self.gateway.cluster.as_str() {
            return Ok(Response::new(self.answer(ask, &author, None).await));
        }
        let answer = remote::ask(&self.shared.peers, &cluster, &ask).await;
        Ok(Response::new(answer.unwrap_or_else(|status| refusal(&status))))
    }
}

impl<S: Store> Objects<S> {
    /// Does what `author` asks of this cluster, and says how it went; `ticket`: it is a linked cluster.
    pub(super) async fn answer(&self, ask: Ask, author: &Author, ticket: Option<&Ticket>) -> Answer {
        let done = match ask.kind {
            Some(ask::Kind::Apply(request)) => {
                self.put(request, author, ticket).await.map(answer::Kind::Changed)
            }
            Some(ask::Kind::Delete(request)) => {
                self.take_away(request, author, ticket).await.map(answer::Kind::Changed)
            }
            Some(ask::Kind::Get(request)) => self.show(request, author).await.map(answer::Kind::Found),
            None => Err(Status::unimplemented("this version does not know yet what is asked for")),
        };
        done.map_or_else(|status| refusal(&status), |kind| Answer { kind: Some(kind) })
    }

    async fn put(
        &self,
        request: ApplyRequest,
        author: &Author,
        ticket: Option<&Ticket>,
    ) -> Result<Changed, Status> {
        let ApplyRequest { sources, dry_run } = request;
        let sources: Vec<Source> = sources
            .into_iter()
            .map(|source| Source { name: clean(&source.name, QUOTED_BYTES_MAX).into(), text: source.text })
            .collect();
        let applied = self.applied(ticket).await?;
        let (gateway, by) = (self.gateway.clone(), author.clone());
        let (files, catalog) = (self.knowledge.sources().0, self.knowledge.catalog());
        // Thousands of documents take a while, and the control plane has other things to do.
        let planned = self.work(ticket, move || {
            let there = There { gateway: &gateway, files: &files, applied: &applied };
            let plan = apply::plan(there, &sources, &by)?;
            let placements = if dry_run { preview(&catalog, there, &plan, &by) } else { Preview::default() };
            Ok((plan, placements))
        });
        self.finish(planned.await?, dry_run, author).await
    }

    async fn take_away(
        &self,
        request: DeleteRequest,
        author: &Author,
        ticket: Option<&Ticket>,
    ) -> Result<Changed, Status> {
        let DeleteRequest { names, dry_run } = request;
        let names = names.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        let applied = self.applied(ticket).await?;
        let files = self.knowledge.sources().0;
        let there = There { gateway: &self.gateway, files: &files, applied: &applied };
        let planned = apply::plan_delete(there, &names, author);
        self.finish(planned.map(|plan| (plan, Preview::default())), dry_run, author).await
    }

    /// What there is of that which `author` may see.
    async fn show(&self, request: GetRequest, author: &Author) -> Result<Found, Status> {
        if author.granted.as_ref().is_some_and(Vec::is_empty) {
            return Err(Status::permission_denied("nothing is granted (`spec.allow.apply` of the Link)"));
        }
        let GetRequest { kind, namespace, name } = request;
        let kind = match &*kind {
            "" => None,
            kind => Some(Kind::of(kind).ok_or_else(|| unknown_kind(kind))?),
        };
        let fits = |object: &ObjectName| {
            kind.is_none_or(|kind| object.kind() == kind)
                && (namespace.is_empty() || object.namespace() == namespace)
                && (name.is_empty() || object.name() == name)
                && author.may(object)
        };
        // Of what is applied the elected gateway has the word: every gateway of the cluster shows the same.
        let kept = tokio::time::timeout(STATUS_WAIT, status::range(&self.store)).await;
        let kept = kept.ok().and_then(Result::ok).unwrap_or_default();
        let (files, applied) = self.knowledge.sources();
        let view = self.shared.view.load_full();
        let known = sync::conditions(&self.shared, &view, self.shared.clock.now());
        let said = SaidOf::new(&known);
        let in_files: BTreeMap<_, _> = files.declared.objects().map(|o| (o.name(), o)).collect();
        let of_files = files.documents.iter().filter(|(name, _)| fits(name)).map(|(name, document)| {
            let file = format!("{}:{}", document.file.display(), document.line);
            // Of two of one name that of the file is accepted.
            let said: Vec<_> =
                said.of(name).iter().filter(|c| c.kind() != ConditionKind::Accepted).copied().collect();
            let in_use = in_files.get(name).is_some_and(|object| in_use(object, &view));
            Object {
                name: Some(named(name)),
                file,
                document: document.bytes.clone(),
                conditions: conditions(&status::conditions(&said, in_use), 0),
                ..Object::default()
            }
        });
        let of_store = applied.iter().filter(|(name, _)| fits(name)).map(|(name, applied)| {
            let stored = &applied.stored;
            let kept = kept.get(name).filter(|kept| kept.observed_generation == stored.generation);
            // Until it has looked, what this one sees.
            let status = kept.cloned().unwrap_or_else(|| {
                let in_use = applied.object.as_ref().is_ok_and(|object| in_use(object, &view));
                status::of(stored, said.of(name), in_use)
            });
            Object {
                name: Some(named(name)),
                file: String::new(),
                document: with_revision(&stored.text, stored.revision),
                generation: stored.generation,
                by: stored.by.clone(),
                applied_unix_ms: stored.unix_ms,
                revision: stored.revision,
                conditions: conditions(&status.conditions, status.observed_generation),
            }
        });
        let mut objects: Vec<_> = of_files.chain(of_store).collect();
        let key = |object: &Object| {
            let name = object.name.clone().unwrap_or_default();
            (name.kind, name.namespace, name.name, object.file.is_empty())
        };
        objects.sort_by_cached_key(key);
        Ok(Found { objects })
    }

    /// What is applied at this moment, as the registry has it: no change is planned on what may be old.
    async fn applied(&self, ticket: Option<&Ticket>) -> Result<AppliedObjects, Status> {
        let range = tokio::time::timeout(CALL_WAIT, applied::range(&self.store)).await;
        let range = range.map_err(|_| Status::unavailable("the registry does not answer in time"))?;
        let (_, stored) = range.map_err(|error| refused(&error.into()))?;
        let known = self.knowledge.sources().1;
        let gateway = self.gateway.clone();
        self.work(ticket, move || applied::read_all(&gateway, &stored, &known)).await
    }

    /// Does what takes a while, beside everything else: for a linked cluster one thing after the other.
    async fn work<T: Send + 'static>(
        &self,
        ticket: Option<&Ticket>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let Some(ticket) = ticket.cloned() else {
            return spawn_blocking(work).await.map_err(|panic| Status::internal(panic.to_string()));
        };
        let done = self.pool.run(move || {
            let done = work();
            drop(ticket);
            done
        });
        done.await.map_err(|why| match why {
            NotDone::Full => Status::resource_exhausted(why.to_string()),
            NotDone::Broke => Status::internal(why.to_string()),
        })
    }

    /// Makes the change that was planned, and says what it was.
    async fn finish(
        &self,
        planned: Result<(Plan, Preview), Refused>,
        dry_run: bool,
        author: &Author,
    ) -> Result<Changed, Status> {
        let (mut plan, (placements, placements_left_out)) = match planned {
            Ok(planned) => planned,
            Err(Refused::Invalid(problems)) => {
                let problems = problems.iter().map(problem).collect();
                return Ok(Changed { problems, refused: true, ..Changed::default() });
            }
            Err(error) => return Err(refused(&error)),
        };
        if !dry_run {
            let committed = tokio::time::timeout(CALL_WAIT, plan.commit(&self.store)).await;
            // Whatever went wrong then, these are there.
            for step in plan.made() {
                let what = format!("{} by an operator", word(step.outcome));
                // Each object has lines of its own: a large change is no flood, an object that never rests is.
                audit::change_by(&step.name, &what, &step.name, &author.by, "subsequent requests");
            }
            let (made, of) = (plan.made().count(), plan.writes());
            let late = |_| {
                let text = format!(
                    "the registry did not answer in time; {made} of {of} objects were changed for certain, look with \
                     `ringway get`"
                );
                Status::deadline_exceeded(text)
            };
            committed.map_err(late)?.map_err(|error| refused(&error))?;
        }
        let changes = plan.steps.iter().map(|step| {
            let text = |stored: Option<&str>| stored.unwrap_or_default().to_owned();
            Change {
                name: Some(named(&step.name)),
                outcome: word(step.outcome).into(),
                generation: step.after.as_ref().map_or(0, |after| after.generation),
                revision: step.after.as_ref().map_or(0, |after| after.revision),
                before: text(step.before.as_ref().map(|before| &*before.text)),
                after: text(step.after.as_ref().map(|after| &*after.text)),
            }
        });
        let problems = plan.warnings.iter().map(problem).collect();
        let changes = changes.collect();
        Ok(Changed { changes, problems, refused: false, placements, placements_left_out })
    }
}

/// The services that would be placed otherwise, and how many more there are.
type Preview = (Vec<Placement>, u32);

/// What `plan` would change of how services are placed, beside what is known of peers.
fn preview(known: &Catalog, there: There<'_>, plan: &Plan, author: &Author) -> Preview {
    let with = |applied: &AppliedObjects| {
        let sources = Sources { files: there.files.clone(), applied: applied.clone(), ..Sources::default() };
        Catalog { declared: sources.merge(&known.cluster).declared, ..known.clone() }
    };
    placements::placements(&with(there.applied), &with(&plan.applied), |object| author.may(object))
}

/// Who asks, by the credentials of the connection.
fn author<T>(request: &Request<T>) -> Author {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let by = peer.map_or_else(|| "nobody known".into(), |peer| format!("uid {}", peer.uid()));
    Author { by, unix_ms: unix_ms(), granted: None }
}

/// A status, as it is told to a linked cluster and of one.
pub(super) fn refusal(status: &Status) -> Answer {
    let refused = Refusal { code: status.code() as u32, message: status.message().into() };
    Answer { kind: Some(answer::Kind::Refusal(refused)) }
}

fn refused(error: &Refused) -> Status {
    let text = chain(error);
    match error {
        Refused::Invalid(_) | Refused::TooMany(_) => Status::invalid_argument(text),
        Refused::Denied(_) => Status::permission_denied(text),
        Refused::NotApplied(_) => Status::not_found(text),
        Refused::DeclaredInFile(..) => Status::failed_precondition(text),
        Refused::Conflict { .. } | Refused::Partly { .. } => Status::aborted(text),
        Refused::Store(_) => Status::unavailable(text),
    }
}

fn unknown_kind(kind: &str) -> Status {
    let kind = clean(kind, NAME_BYTES_MAX);
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    Status::invalid_argument(format!("`{kind}` cannot be applied; the kinds are {}", kinds.join(", ")))
}

fn name(name: &Name) -> Result<ObjectName, Status> {
    let kind = Kind::of(&name.kind).ok_or_else(|| unknown_kind(&name.kind))?;
    // It ends in an audit line, and nothing is called like that.
    for part in [&name.namespace, &name.name] {
        if part.len() > NAME_BYTES_MAX || part.contains(is_harmful) {
            let part = clean(part, NAME_BYTES_MAX);
            return Err(Status::invalid_argument(format!("`{part}` is no name of an object or namespace")));
        }
    }
    Ok(ObjectName::new(kind, &name.namespace, &name.name))
}

fn named(name: &ObjectName) -> Name {
    Name { kind: name.kind().as_str().into(), namespace: name.namespace().into(), name: name.name().into() }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Changed => "changed",
        Outcome::Unchanged => "unchanged",
        Outcome::Deleted => "deleted",
    }
}

fn problem(problem: &registry::manifest::Problem) -> Problem {
    Problem {
        file: problem.file.clone(),
        line: problem.line,
        column: problem.column,
        object: problem.object.clone().unwrap_or_default(),
        message: problem.message.clone(),
        hint: problem.hint.clone().unwrap_or_default(),
        warning: problem.severity == Severity::Warning,
        text: problem.to_string(),
    }
}

/// How an object is: 0 is the generation of what stands in a file.
fn conditions(of: &[store::Condition], observed_generation: u64) -> Vec<Condition> {
    let condition = |condition: &store::Condition| {
        let store::Condition { kind, status, reason, message, since_unix_ms } = condition.clone();
        Condition { kind, status, reason, message, observed_generation, since_unix_ms }
    };
    of.iter().map(condition).collect()
}
