//! How messages and machines are written down.

use etcd::consensus::{Consensus, Role};
use etcd::peers::{Appended, LeaderHint, Refusal, Request, Response, decode_entries};
use etcd_log::{LogId, Membership, NodeId, Vote};

/// A request; nothing, if it has nothing to do with what the scripts are about.
pub(super) fn request(request: &Request, behind: &[u8]) -> Option<String> {
    Some(match request {
        Request::PreVote { last, .. } => format!("preVote, last {}", id(*last)),
        Request::Vote { vote, last } => format!("vote in {}, last {}", vote.term, id(*last)),
        Request::Append { vote, previous, committed, .. } => {
            let entries = decode_entries(behind).unwrap();
            let entries: Vec<_> = entries.iter().map(|entry| entry.id.to_string()).collect();
            let entries =
                if entries.is_empty() { "nothing".to_owned() } else { entries.join(", ") };
            let (previous, committed) = (id(*previous), id(*committed));
            format!("append in {}: {entries} after {previous}, committed {committed}", vote.term)
        }
        Request::Pulse { vote, .. } => format!("pulse in {}", vote.term),
        Request::Barrier => "barrier".to_owned(),
        Request::Propose { commands } => format!("propose {}", commands.len()),
        Request::Join { .. } => "join".to_owned(),
        Request::Leave { name } => format!("leave {name}"),
        Request::Removed => "removed".to_owned(),
        Request::Checkpoint { .. }
        | Request::Move { .. }
        | Request::Knows { .. }
        | Request::LogFormat
        | Request::Process
        | Request::Status
        | Request::History(_)
        | Request::Entries { .. } => return None,
    })
}

pub(super) fn answer(answer: &Result<Response, Refusal>) -> String {
    match answer {
        Ok(Response::PreVote { granted, following }) => {
            let granted = if *granted { "granted" } else { "not granted" };
            let leader = |hint: &LeaderHint| format!(", n{} leads", hint.node.0);
            format!("{granted}{}", following.as_ref().map(leader).unwrap_or_default())
        }
        Ok(Response::Voted { granted: true, .. }) => "voted".to_owned(),
        Ok(Response::Voted { vote, last, .. }) => {
            format!("not voted, {}, last {}", by(*vote), id(*last))
        }
        Ok(Response::Appended(Appended::All)) => "appended".to_owned(),
        Ok(Response::Appended(Appended::UpTo(upto))) => format!("appended up to {}", id(*upto)),
        Ok(Response::Appended(Appended::Conflict)) => "conflict".to_owned(),
        Ok(Response::Appended(Appended::Overruled(vote))) => format!("overruled: {}", by(*vote)),
        Ok(Response::Pulse { vote }) => format!("heard: {}", by(*vote)),
        Ok(Response::Barrier { upto }) => {
            format!("up to {}", upto.map_or("nothing".to_owned(), |upto| upto.to_string()))
        }
        Ok(Response::Placed(place)) => format!("placed at {}", place.entry),
        Ok(Response::Joined { .. }) => "joined".to_owned(),
        Ok(Response::Done) => "done".to_owned(),
        Ok(_) => "something else".to_owned(),
        Err(Refusal::NotLeader(Some(leader))) => format!("refused: n{} leads", leader.node.0),
        Err(refusal) => format!("refused: {refusal}"),
    }
}

fn by(vote: Vote) -> String {
    let voted = if vote.committed { "led by" } else { "voted for" };
    let whom =
        if vote.node == NodeId(0) { "nobody".to_owned() } else { format!("n{}", vote.node.0) };
    format!("{} {voted} {whom}", vote.term)
}

pub(super) fn id(id: Option<LogId>) -> String {
    id.map_or("nothing".to_owned(), |id| id.to_string())
}

/// How a machine stands to the others.
pub(super) fn role(consensus: &Consensus) -> String {
    let term = consensus.term();
    match consensus.role() {
        Role::Leader => format!("leads in {term}"),
        Role::LeaderWithoutQuorum => format!("has no majority in {term}"),
        Role::Follower(leader) => format!("follows n{}", leader.0),
        Role::NoLeader => "hears no leader".to_owned(),
    }
}

/// Who is in the group.
pub(super) fn group(membership: &Membership) -> String {
    let names = |nodes: &mut dyn Iterator<Item = &NodeId>| {
        nodes.map(|node| format!("n{}", node.0)).collect::<Vec<_>>().join(" ")
    };
    let voters = membership.voters.iter().map(|voters| names(&mut voters.iter()));
    let voters = voters.collect::<Vec<_>>().join(" | ");
    let is_learner = |node: &&NodeId| !membership.voters.iter().any(|set| set.contains(node));
    let learners = names(&mut membership.nodes.keys().filter(is_learner));
    let learners = if learners.is_empty() { learners } else { format!(" learners {learners}") };
    format!("voters {voters}{learners}")
}
