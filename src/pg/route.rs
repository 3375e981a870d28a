//! Finding the partition a row belongs into, by the executor's tuple routing.

use super::ffi::{end_routing, find_partition, start_routing};
use super::owner::AsTableOwner;
use pgrx::pg_sys;

pub struct Router {
    owner: pg_sys::Oid,
    pub estate: *mut pg_sys::EState,
    info: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::ModifyTableState,
    routing: *mut pg_sys::PartitionTupleRouting,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Router {
    /// # Safety
    /// `relation` is an open partitioned table; to be closed with [`Router::close`], or left to the
    /// transaction's abort.
    pub unsafe fn open(relation: pg_sys::Relation, owner: pg_sys::Oid) -> Router {
        let _owner = AsTableOwner::restricted(owner);
        let outer = std::mem::replace(
            &mut *std::ptr::addr_of_mut!(pg_sys::CurrentMemoryContext),
            pg_sys::TopTransactionContext,
        );
        let estate = pg_sys::CreateExecutorState();
        pg_sys::CurrentMemoryContext = (*estate).es_query_cxt;
        let info: *mut pg_sys::ResultRelInfo = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
        (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
        pg_sys::InitResultRelInfo(info, relation, 0, std::ptr::null_mut(), 0);
        let state: *mut pg_sys::ModifyTableState = pg_sys::palloc0(size_of::<pg_sys::ModifyTableState>()).cast();
        (*state).ps.type_ = pg_sys::NodeTag::T_ModifyTableState;
        (*state).ps.state = estate;
        (*state).operation = pg_sys::CmdType::CMD_INSERT;
        (*state).resultRelInfo = info;
        let routing = start_routing(estate, relation);
        let slot = pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &pg_sys::TTSOpsVirtual);
        pg_sys::CurrentMemoryContext = outer;
        Router { owner, estate, info, state, routing, slot }
    }

    /// The leaf partition for a row given by all attributes of the partitioned table.
    pub fn partition(&mut self, row: &[Option<pg_sys::Datum>]) -> pg_sys::Oid {
        let _owner = AsTableOwner::restricted(self.owner);
        // SAFETY: the slot has one attribute per element of the row.
        unsafe {
            pg_sys::ExecClearTuple(self.slot);
            for (index, value) in row.iter().enumerate() {
                *(*self.slot).tts_values.add(index) = value.unwrap_or(pg_sys::Datum::from(0));
                *(*self.slot).tts_isnull.add(index) = value.is_none();
            }
            pg_sys::ExecStoreVirtualTuple(self.slot);
            let relid = find_partition(self.state, self.info, self.routing, self.slot, self.estate);
            let context = (*self.estate).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
            relid
        }
    }

    /// # Safety
    /// Nothing of the router is used afterwards.
    pub unsafe fn close(self) {
        pg_sys::ExecDropSingleTupleTableSlot(self.slot);
        end_routing(self.state, self.routing);
        pg_sys::ExecResetTupleTable((*self.estate).es_tupleTable, false);
        pg_sys::FreeExecutorState(self.estate);
    }
}
