//! History that is missing: a checkpoint is installed, and what it contains filled in.

use std::sync::Arc;

use super::Mirror;
use crate::storage::Write;
use crate::testing::steps::Rest;
use crate::types::{LogId, RaftIndex};

impl Mirror {
    pub(super) fn install(&mut self, ahead: u64) {
        if self.is_committed_ahead() {
            return;
        }
        self.term += 1;
        let from = self.model.settled().map_or(RaftIndex(0), |id| id.index.next());
        let upto = RaftIndex(self.model.next().0.max(from.0 + 1) - 1 + ahead);
        // The leader's log goes on in its own way behind what is committed.
        self.model.entries.retain(|index, _| *index < from);
        for index in from.0..=upto.0 {
            let commands = usize::try_from(index % 3).unwrap();
            let entry = self.entry(RaftIndex(index), (commands > 0).then_some(commands), 50);
            self.model.entries.insert(RaftIndex(index), entry);
        }
        let (upto, index) = (self.model.id(upto).unwrap(), self.model.index_before(upto.next()));
        let overtaken = self.model.missing;
        self.write(Write::Install { upto, index });
        if let Some(upto) = overtaken {
            // Whoever was at it comes too late: more is missing by now.
            self.write(Write::Backfill { upto });
        }
        self.see("installed");
    }

    pub(super) fn install_held(&mut self, back: u64) {
        let last = self.model.last();
        if let Some(upto) = self.settled(back).filter(|upto| Some(*upto) < last) {
            let index = self.model.index_before(upto.index.next());
            self.write(Write::Install { upto, index });
        }
    }

    pub(super) fn backfill(&mut self, skip: u64, rest: &Rest) {
        self.settle();
        let backfill = self.wal.backfill();
        assert_eq!(backfill.is_some(), self.model.missing.is_some());
        let Some(mut backfill) = backfill else { return };
        let (from, upto) = backfill.wanted();
        assert_eq!(Some(upto), self.model.missing.map(|id| id.index));
        assert!(from <= upto && self.model.forgotten.is_none_or(|id| id.index < from));
        let next = upto.min(RaftIndex(from.0 + skip));
        backfill.skip_to(next, self.model.index_before(next)).unwrap();
        if next > from {
            let upto = LogId { index: RaftIndex(next.0 - 1), ..LogId::default() };
            self.write_to_others(Write::Forget { upto });
        }
        let wanted: Vec<_> =
            self.model.entries.range(next..=upto).map(|(_, entry)| Arc::clone(entry)).collect();
        let comes = match rest {
            Rest::Comes => wanted.len(),
            Rest::ComesInPart(count) => usize::try_from(*count).unwrap().min(wanted.len()),
            Rest::IsKeptNowhere => 0,
        };
        for entry in &wanted[..comes] {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            assert_eq!(backfill.push(bytes).unwrap(), entry.id.index == upto);
        }
        let upto = wanted.last().unwrap().id;
        if matches!(rest, Rest::IsKeptNowhere) {
            backfill.give_up().unwrap();
        } else if comes < wanted.len() {
            return;
        }
        // Without a command it is no history either.
        if comes == 0 || wanted.iter().all(|entry| entry.commands() == 0) {
            self.write_to_others(Write::Forget { upto });
        } else {
            self.see("backfilled");
            self.backfilled = Some(upto.index);
        }
        self.write_to_others(Write::Backfill { upto });
    }
}
